"""Initial weights of a new training from another run, the one that `init` names."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from pathline.config.layers import flatten, to_tree
from pathline.config.resolve import fill
from pathline.config.run import Run
from pathline.parts import Parts
from pathline.runs import folder as runs
from pathline.runs.sampling import weights_of
from pathline.tables import TABLES
from pathline.text.table import reads_of
from pathline.types import Facts

Say = Callable[[str], None]
Tensors = Mapping[str, Tensor]
# Settings that decide which tensors there are, or what the network's output means.
OF_SHAPES = ("backbone.", "text.", "codec.", "data.size", "data.channels", "objective.name")
OF_OUTPUT = ("objective.prediction", "path.")
OF_HEAD = ("objective.head",)
RARELY_WHY = ("backbone.takes_r", "objective.name")  # seldom the reason that weights don't fit
# Settings of a backbone that don't change the output of trained weights.
WITHOUT_EFFECT = (
    *("takes_r", "label_std", "feature_layer", "checkpoint"),
    *("route", "route_share", "path_drop"),
)
ONLY_WITH_JOIN = ("route_before", "route_after")  # have an effect only where a join ends the route
CHILDREN = ("projector.", "head.")  # of a network, which may be new or unused
AT_MOST = 4  # names in a message


class Match(NamedTuple):
    """Which weights of one network go into another, by name."""

    shared: list[str]
    new: list[str]  # only in the network that is trained: they keep their random initial weights
    unused: list[str]  # only in the other run
    errors: dict[str, list[str]]  # what is wrong -> names


def resolve_init(run: Run, opened: runs.Opened[Run] | None, say: Say) -> Run:
    """The run with one checkpoint as its `init`, which stays the same if that run trains on.

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
        # The checkpoint itself, as the other run may go on training.
        return replace(run, init=str(source.checkpoint))
    except ValueError as error:
        raise ValueError(f"init={run.init}: {error}") from None


def load_init(run: Run, parts: Parts, saved: Path | None, say: Say) -> None:
    """Load the weights that the run `init` samples with into the network, if there is an init.

    saved: the checkpoint of a run that is resumed, whose weights are loaded elsewhere. A new
    interval embedding is set to 0, so that u(x, t, r) is v(x, t) for every r. A new head or
    projector keeps its random weights. Raises ValueError for weights of another network, of other
    classes or words, or whose output means something else.
    """
    if saved or not run.init:
        return
    source = runs.open_run(Path(run.init), lambda text: say(f"warning: {text}"))
    weights, which = weights_of(source, source.run.sample.ema)
    own_weights = parts.network.state_dict()
    match = _match(own_weights, weights)
    # with a head, the backbone's own output is not read
    output = OF_OUTPUT if parts.objective.head is None else OF_HEAD
    differences = _differences(source.run, run, OF_SHAPES + output)
    without_effect = WITHOUT_EFFECT + (() if parts.network.has("join") else ONLY_WITH_JOIN)
    changes = [text for text in differences if _changes_output(text, without_effect)]
    _check(run, parts.facts, source, match, differences, changes)
    shared = {name: weights[name] for name in match.shared}
    parts.network.load_state_dict({**own_weights, **shared})
    _zero_new_interval(parts.network, match.new)
    name = source.checkpoint if source.exported else source.folder
    which = f"{which}, update {source.update}"
    say(f"init: {len(shared)} tensors of {name} ({which}){_report(match, differences)}")


def _report(match: Match, differences: list[str]) -> str:
    data = [text for text in differences if text.startswith(("text.", "codec.", "data."))]
    parts = {
        "new": _layers(match.new),
        "not used": _layers(match.unused),
        "settings that differ": ", ".join(data),
    }
    return "".join(f"; {what}: {names}" for what, names in parts.items() if names)


def _match(own_weights: Tensors, weights: Tensors) -> Match:
    both = [name for name in own_weights if name in weights]
    shared = [name for name in both if own_weights[name].shape == weights[name].shape]
    shapes = [
        f"{name} {_shape(weights[name])}, expected {_shape(own_weights[name])}"
        for name in both
        if own_weights[name].shape != weights[name].shape
    ]
    missing = [name for name in own_weights if name not in weights]
    surplus = [name for name in weights if name not in own_weights]
    # What may be added to a trained network: head, projector, the embedding of r − t.
    new = [name for name in missing if name.startswith(CHILDREN) or "interval" in name.split(".")]
    # a new head takes the place of the backbone's last layer
    has_new_head = any(name.startswith("head.") for name in new)
    spare = ("projector.", "backbone.final.") if has_new_head else ("projector.",)
    errors = {
        "of another shape": shapes,
        "missing": [name for name in missing if name not in set(new)],
        "of no use": [name for name in surplus if not name.startswith(spare)],
    }
    unused = [name for name in surplus if name.startswith(spare)]
    return Match(shared, new, unused, {what: names for what, names in errors.items() if names})


def _check(
    run: Run,
    facts: Facts,
    source: runs.Opened[Run],
    match: Match,
    differences: list[str],
    changes: list[str],
) -> None:
    # Classes and words are rows of tables: another set of them has no use for the weights.
    remedy = "Leave out init, or set it to a run that fits."
    before = source.facts
    reads = {reads_of(each.text.name) for each in (run, source.run)}
    if reads == {"labels"} and len(before.names) != len(facts.names):
        raise ValueError(
            f"init={run.init} has {len(before.names)} classes, this data has {len(facts.names)}: "
            f"a network's classes can't be changed. {remedy}"
        )
    if reads == {"words"} and before.words != facts.words:
        odd = sorted(set(before.words) ^ set(facts.words))
        raise ValueError(
            f"init={run.init} has {len(before.words)} words, this data has {len(facts.words)}, and "
            f"they are not the same ({', '.join(odd[:AT_MOST])} …): its word table is of no use "
            f"here. {remedy}"
        )
    # Shapes that differ, explained by the settings that differ.
    if match.errors:
        wrong = "; ".join(f"{what}: {_first(names)}" for what, names in match.errors.items())
        reasons = [text for text in differences if not text.startswith(RARELY_WHY)] or differences
        raise ValueError(
            f"The weights of init={run.init} are not of this network. Settings that differ: "
            f"{', '.join(reasons) or 'none; the code has changed since'}. Set them as in that run, "
            f"or leave out init. Tensors {wrong}."
        )
    # Weights that fit but would mean something else.
    if changes:
        raise ValueError(
            f"The output of the weights of init={run.init} would differ in this network: "
            f"{', '.join(changes)}. Set this as in that run, or leave out init."
        )


def _changes_output(difference: str, without_effect: Iterable[str]) -> bool:
    """Whether the same weights compute another output with it, or the output means another."""
    key = difference.partition(" ")[0]
    is_idle = key in {f"backbone.{option}" for option in without_effect}
    return key.startswith(("backbone.", *OF_OUTPUT, *OF_HEAD)) and not is_idle


def _differences(before: Run, now: Run, places: Iterable[str]) -> list[str]:
    """Settings below these places that differ between two runs, in words."""
    old, new = (flatten(to_tree(fill(run, TABLES))) for run in (before, now))
    keys = [key for key in {**old, **new} if key.startswith(tuple(places))]
    odd = [key for key in keys if old.get(key) != new.get(key)]
    # the options of another row are not compared: the row's name says it
    rows = tuple(key.removesuffix("name") for key in odd if key.endswith(".name"))
    loose = [key for key in odd if key.startswith(rows) and key not in OF_OUTPUT]
    odd = [key for key in odd if key.endswith(".name") or key not in loose]
    return [f"{key} was {_value(old, key)}, is {_value(new, key)}" for key in odd]


def _value(tree: Mapping[str, Any], key: str) -> str:
    """The value as YAML has it."""
    value = tree.get(key)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _zero_new_interval(network: nn.Module, new: Iterable[str]) -> None:
    """Set the last layers of new interval embeddings to 0."""
    for name in {name.rpartition(".")[0] for name in new if "interval.down" in name}:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _layers(names: Iterable[str]) -> str:
    """The parts of a network that these tensors are of."""
    layers = ("interval", "head", "final", "projector")
    parts = (next(part for part in name.split(".") if part in layers) for name in names)
    return ", ".join(dict.fromkeys(parts))


def _first(names: list[str]) -> str:
    return ", ".join(names[:AT_MOST]) + (f" … ({len(names)})" if len(names) > AT_MOST else "")


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "1"
