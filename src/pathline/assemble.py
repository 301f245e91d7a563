"""Settings to parts: the only file that builds rows of every table."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pathline.backbones.network import Network
from pathline.backbones.projector import build_projector
from pathline.backbones.transition_head import build_head
from pathline.codecs.pretrained import cached_codec
from pathline.compatibility import (
    Subject,
    feature_term,
    named,
    needs_of,
    require,
    require_sizes,
    require_width,
    sampling_needs,
    subject_of,
    training_needs,
    undecided,
    unmet,
)
from pathline.config.pick import Pick, bind
from pathline.config.run import PLACES, Run, Sample, picks_of, terms_of
from pathline.config.sections import unreached
from pathline.flow.couplings import independent
from pathline.flow.guidance import Guidance, Push
from pathline.flow.paths import Path, draw_point
from pathline.flow.solvers import Solver, counted, last
from pathline.flow.times import fixed
from pathline.flow.walks import States, adaptive_walk, walk_grid
from pathline.objectives.alignment import with_features
from pathline.objectives.terms import TERMS, compose, term_of
from pathline.parts import Parts, Sampler
from pathline.tables import TABLES
from pathline.text.cached import cached_text
from pathline.text.table import is_frozen
from pathline.types import Codec, Cond, Facts, Frame, Objective, Point, Text

STILL = Push(0.0, torch.zeros(1, 1, 1))  # to check a sampler with


def assemble(run: Run, facts: Facts) -> Parts:
    """Build a run's parts for data of these facts. Raises ValueError for incompatible ones."""
    # What the settings alone decide is checked first, before any weights are made.
    objective, path = objective_of(run), bound(run, "path")()
    subject = subject_of(run, objective, TABLES)._replace(has_features=facts.vision_width > 0)
    require(training_needs(run, objective, TABLES), subject)
    codec = _codec(run, facts)
    with torch.random.fork_rng(devices=[]):  # the initial weights are a function of the seed alone
        torch.manual_seed(run.seed)
        # Children are built in the order of `Network`, so that a seed gives the same weights.
        text = _text(run, facts)
        frame = _frame(facts, codec, text)
        backbone = bound(run, "backbone")(frame)
        # Children that an objective or a loss term needs.
        head = projector = None
        if objective.head is not None:
            head = build_head(backbone, frame, **objective.head)
            objective = objective._replace(loss=partial(objective.loss, patch=head.size))
        if term := feature_term(run):
            kind, width = term["projector"], term["width"]
            projector = build_projector(backbone, facts.vision_width, kind=kind, width=width)
            objective = objective._replace(loss=with_features(objective.loss))
    network = Network(backbone, words=text.module, head=head, projector=projector)
    # What only the built parts show.
    require_width(objective, backbone, codec.channels)
    require_sizes(facts, codec, network, objective)
    couple, times = bound(run, "coupling"), bound(run, "times")
    draw = partial(draw_point, path=path, draw=times, couple=couple)
    draw_at = partial(_draw_at, path)
    return Parts(facts, codec, text, network, objective, path, draw, draw_at, criterion(run))


def _codec(run: Run, facts: Facts) -> Codec:
    make = partial(bound(run, "codec"), facts)
    return cached_codec(make, facts.cache) if facts.cache else make()


def _text(run: Run, facts: Facts) -> Text:
    make = partial(bound(run, "text"), facts)
    if facts.cache is None or not is_frozen(run.text.name):
        return make()
    return cached_text(make, facts.cache)


def put_on(parts: Parts, device: torch.device) -> None:
    """Move the network; set the device where codec and text encoder will load their weights."""
    parts.network.to(device)
    for to in (parts.codec.to, parts.text.to):
        if to:
            to(device)


def labelled(text: Text) -> bool:
    """Whether the encoder reads class labels; loads no weights."""
    return not text.width and text.null.labels is not None


def sampler(sample: Sample, path: Path) -> Sampler:
    """Solver, grid, guidance and sharing of `sample`, called once so that errors come early."""
    record, step = _solver(sample)
    guidance = TABLES["sample.guidance"][sample.guidance.name]
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    guide = _row("sample.guidance", sample.guidance)
    # Called on a field of zeros, so that wrong options are refused before a training.
    guide(torch.zeros_like, torch.zeros_like, STILL)
    solver = Subject(has_fixed_steps=not record.adaptive)
    needs = sampling_needs(sample, record.asks, TABLES)
    require(needs, solver)
    needs = undecided(needs, solver)  # of the network
    count = named(f"sample.solver={sample.solver.name}", _evaluations)
    if record.adaptive:
        walk = partial(adaptive_walk, solver=step, path=path)
        count(walk)
        return Sampler(walk, guide, guidance.other, needs, share=None)
    grid = _row("sample.grid", sample.grid)(sample.steps)
    walk = partial(walk_grid, grid=grid, solver=step, path=path, evaluates_end=record.evaluates_end)
    evaluations = count(partial(walk, grid=grid[:2]))
    if not needs_of({"sample.sharing": sample.sharing}, TABLES):
        return Sampler(walk, guide, guidance.other, needs, share=None)
    # A plan is checked on the number of backbone evaluations; those of a head do not count.
    share = partial(_row("sample.sharing", sample.sharing), grid)
    share(partial(torch.eye, len(grid[1:]) * (1 if record.asks == "transition" else evaluations)))
    return Sampler(walk, guide, guidance.other, needs, share)


def _solver(sample: Sample) -> tuple[Solver, Callable]:
    """The record of the solver, and its step with its options bound.

    Its errors are not prefixed with the setting: errors of the network pass through it too.
    """
    row = TABLES["sample.solver"][sample.solver.name]
    record = row if isinstance(row, Solver) else Solver(row)
    return record, bind(TABLES["sample.solver"], sample.solver, PLACES["sample.solver"])


def check_settings(run: Run) -> None:
    """Raises ValueError for rows that are incompatible, whatever the data."""
    objective, sampling = objective_of(run), sampler(run.sample, bound(run, "path")())
    criterion(run)
    bound(run, "times")(torch.zeros(1, 1), torch.Generator())
    needs = [*training_needs(run, objective, TABLES), *sampling.needs]
    require(needs, subject_of(run, objective, TABLES))


def warnings_of(run: Run) -> list[str]:
    """A sentence for each combination of settings that works but is rarely intended."""
    preferred = needs_of(picks_of(run), TABLES, "prefers")
    unmatched = unmet(preferred, subject_of(run, objective_of(run), TABLES))
    return [*unmatched, *unreached(run)]


def objective_of(run: Run) -> Objective:
    """The run's objective on its path, as its row builds it."""
    return bound(run, "objective")(bound(run, "path")())


def _evaluations(walk: Callable[..., States]) -> int:
    """The number of times that a walk evaluates its field."""
    still, calls = counted(lambda x, *_: torch.zeros_like(x))
    last(walk(still, STILL.mean[None], torch.zeros_like))
    return calls()


def optimizer(run: Run, network: nn.Module) -> torch.optim.Optimizer:
    return bound(run, "optimizer")(network)


def rate(run: Run) -> Callable[[int], float]:
    """The factor on the learning rate at an update."""
    return partial(bound(run, "schedule"), updates=run.train.updates)


def bound(run: Run, place: str) -> Callable:
    """The run's row of a place with its options bound; its errors begin with the setting."""
    return _row(place, picks_of(run)[place])


def _row(place: str, pick: Pick) -> Callable:
    return named(f"{place}={pick.name}", bind(TABLES[place], pick, PLACES[place]))


def criterion(run: Run) -> Callable:
    """The run's loss terms as one."""
    terms = {}
    for name, (weight, pick) in terms_of(run).items():
        loss = named(f"terms.{name}", bind(TERMS, pick, PLACES["terms"]))
        terms[name] = weight, term_of(TERMS[name])._replace(loss=loss)
    return compose(terms)


def _frame(facts: Facts, codec: Codec, text: Text) -> Frame:
    sizes = facts.sizes or ((facts.height, facts.width),)
    for height, width in sizes:
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"data.size={height}x{width} is wrong because this codec downsamples by "
                f"{codec.factor}. Use multiples of {codec.factor}."
            )
    height, width = max(
        sizes, key=lambda size: size[0] * size[1]
    )  # larger images have stretched positions
    height, width = height // codec.factor, width // codec.factor
    classes = len(facts.names) if labelled(text) else 0
    return Frame(codec.channels, height, width, classes, text.width, text.pooled_width)


def _draw_at(path: Path, t: float) -> Callable[[Tensor, Cond, torch.Generator], Point]:
    return partial(draw_point, path=path, draw=partial(fixed, t=t), couple=independent)
