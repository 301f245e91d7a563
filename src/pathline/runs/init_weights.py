"""Where a new training begins: with another run's weights, where its `init` names one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from pathline.assemble import Parts
from pathline.backbones.token_routing import joins
from pathline.config.layers import flatten, to_tree
from pathline.config.resolve import fill
from pathline.config.run import Run
from pathline.runs import folder as runs
from pathline.tables import TABLES
from pathline.text.table import reads_of
from pathline.types import Facts

Say = Callable[[str], None]
Tensors = Mapping[str, Tensor]
SHAPING = ("backbone.", "text.", "codec.", "data.size", "data.channels", "objective.name")
READING = ("objective.prediction", "path.")  # how what a network answers is read
HEADING = ("objective.head",)  # what the head of transitions draws as one
EXCUSED = ("backbone.takes_r", "objective.name")  # seldom what keeps weights out
# Settings of a backbone that change nothing in what trained weights answer.
IDLE = ("takes_r", "label_std", "look", "checkpoint", "route", "route_share", "path_drop")
UNJOINED = ("route_before", "route_after")  # nor do these, where no join ends the route
ADDED = ("projector.", "head.")  # what is put upon a network, the outer one first
AT_MOST = 4  # names in a message


class Fit(NamedTuple):
    """How the weights of one network go into another, by name."""

    shared: list[str]
    fresh: list[str]  # that only the new one has and begins with at random
    left: list[str]  # that only the old one has
    misfit: dict[str, list[str]]  # what is wrong -> names


def settled(run: Run, opened: runs.Opened[Run] | None, say: Say) -> Run:
    """The run with its `init` as one checkpoint, whatever is trained on in that run's folder.

    Raises ValueError for an init that is no trained run, or another one than the run began with.
    """
    if opened and opened.saved:
        if run.init != opened.run.init:
            raise ValueError(
                f"init={run.init} is for a new training, but {opened.folder} goes on with weights "
                "of its own: leave out --resume, or init."
            )
        return run
    if not run.init:
        return run
    try:
        source = runs.open_run(Path(run.init), lambda text: say(f"warning: {text}"))
        return replace(run, init=str(source.checkpoint))
    except ValueError as error:
        raise ValueError(f"init={run.init}: {error}") from None


def begin(run: Run, parts: Parts, saved: Path | None, say: Say) -> None:
    """Put the weights that the run `init` is drawn with into the network, if there is one.

    saved: the checkpoint of a run that goes on, which has weights of its own. What only a mean flow
    has, the span, is made to say nothing: u(x, t, r) is v(x, t) for every r. A head of transitions
    and a projector begin afresh upon a backbone that keeps its weights. Raises ValueError for
    weights of another network, of other classes or words, or read otherwise.
    """
    if saved or not run.init:
        return
    source = runs.open_run(Path(run.init), lambda text: say(f"warning: {text}"))
    weights, named = runs.weights_of(source, source.run.sample.ema)
    own = parts.network.state_dict()
    mine, theirs = _bare(own), _bare(weights)
    fit = _fit(_named(mine, own), _named(theirs, weights))
    headed = parts.objective.head is not None  # nobody reads a velocity from its backbone
    differ = _differing(source.run, run, SHAPING + (HEADING if headed else READING))
    idle = IDLE if joins(parts.network) else IDLE + UNJOINED
    turns = [text for text in differ if _turns(text, idle)]
    _refuse(run, parts.facts, source, fit, differ, turns)
    given = {mine[name]: weights[theirs[name]] for name in fit.shared}
    parts.network.load_state_dict({**own, **given})
    _hush(parts.network, [mine[name] for name in fit.fresh])
    which = f"{named}, update {int(source.checkpoint.name[5:])}"
    say(f"init: {len(fit.shared)} tensors of {source.folder} ({which}){_told(fit, differ)}")


def _told(fit: Fit, differ: list[str]) -> str:
    data = [text for text in differ if text.startswith(("text.", "codec.", "data."))]
    said = {
        "fresh": _parts(fit.fresh),
        "left behind": _parts(fit.left),
        "settings that differ": ", ".join(data),
    }
    return "".join(f"; {what}: {words}" for what, words in said.items() if words)


def _bare(names: Iterable[str]) -> dict[str, str]:
    """Names as of a network that no projector and no head was put upon -> names as they are."""
    bare = {name: name for name in names}
    for added in ADDED:
        if any(name.startswith(added) for name in bare):
            bare = {name.removeprefix("backbone."): whole for name, whole in bare.items()}
    return bare


def _named(bare: Mapping[str, str], tensors: Tensors) -> Tensors:
    return {name: tensors[whole] for name, whole in bare.items()}


def _fit(own: Tensors, weights: Tensors) -> Fit:
    both = [name for name in own if name in weights]
    shared = [name for name in both if own[name].shape == weights[name].shape]
    missing = [name for name in own if name not in weights]
    surplus = [name for name in weights if name not in own]
    fresh = [n for n in missing if "span" in n.split(".") or n.startswith(ADDED)]
    spare = ("projector.", "final.") if any(n.startswith("head.") for n in fresh) else "projector."
    left = [name for name in surplus if name.removeprefix("backbone.").startswith(spare)]
    shapes = (
        f"{n} {_shape(weights[n])}, wants {_shape(own[n])}" for n in both if n not in set(shared)
    )
    misfit = {
        "of another shape": list(shapes),
        "missing": [name for name in missing if name not in set(fresh)],
        "of no use": [name for name in surplus if name not in set(left)],
    }
    return Fit(shared, fresh, left, {what: names for what, names in misfit.items() if names})


def _refuse(
    run: Run,
    facts: Facts,
    source: runs.Opened[Run],
    fit: Fit,
    differ: list[str],
    turns: list[str],
) -> None:
    end = "Leave out init, or take a run that fits."
    was = source.facts
    reads = {reads_of(one.text.name) for one in (run, source.run)}
    if reads == {"labels"} and len(was.names) != len(facts.names):
        raise ValueError(
            f"init={run.init} knows {len(was.names)} classes, this data has {len(facts.names)}: "
            f"a network's classes can't be changed. {end}"
        )
    if reads == {"words"} and was.words != facts.words:
        odd = sorted(set(was.words) ^ set(facts.words))
        raise ValueError(
            f"init={run.init} knows {len(was.words)} words, this data has {len(facts.words)}, and "
            f"they are not the same ({', '.join(odd[:AT_MOST])} …): its word table is of no use "
            f"here. {end}"
        )
    if fit.misfit:
        wrong = "; ".join(f"{what}: {_some(names)}" for what, names in fit.misfit.items())
        differ = [text for text in differ if not text.startswith(EXCUSED)] or differ
        raise ValueError(
            f"The weights of init={run.init} are not of this network. Settings that differ: "
            f"{', '.join(differ) or 'none; the code has changed since'}. Take them from that run, "
            f"or leave out init. Tensors {wrong}."
        )
    if turns:
        raise ValueError(
            f"The weights of init={run.init} would say something else here: {', '.join(turns)}. "
            "Take that from the run, or leave out init."
        )


def _turns(difference: str, idle: Iterable[str]) -> bool:
    """Whether weights that fit answer otherwise by it, or are read otherwise."""
    key = difference.partition(" ")[0]
    still = key in {f"backbone.{option}" for option in idle}
    return key.startswith(("backbone.", *READING, *HEADING)) and not still


def _differing(was: Run, now: Run, places: Iterable[str]) -> list[str]:
    """Settings below these places that two runs don't share, in words."""
    before, after = (flatten(to_tree(fill(run, TABLES))) for run in (was, now))
    keys = [key for key in {**before, **after} if key.startswith(tuple(places))]
    odd = [key for key in keys if before.get(key) != after.get(key)]
    others = tuple(key.removesuffix("name") for key in odd if key.endswith(".name"))
    loose = [key for key in odd if key.startswith(others) and key not in READING]  # of another row
    odd = [key for key in odd if key.endswith(".name") or key not in loose]
    return [f"{key} was {_value(before, key)}, is {_value(after, key)}" for key in odd]


def _value(tree: Mapping[str, Any], key: str) -> str:
    """As it stands in YAML."""
    value = tree.get(key)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hush(network: nn.Module, fresh: Iterable[str]) -> None:
    """Last layers of spans that begin afresh, at zero."""
    spans = {name.rpartition(".")[0] for name in fresh if "span.down" in name}
    for name in spans:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _parts(names: Iterable[str]) -> str:
    """The parts of a network that these tensors are of."""
    known = ("span", "head", "final", "projector")
    words = (next(word for word in name.split(".") if word in known) for name in names)
    return ", ".join(dict.fromkeys(words))


def _some(names: list[str]) -> str:
    return ", ".join(names[:AT_MOST]) + (f" … ({len(names)})" if len(names) > AT_MOST else "")


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "1"
