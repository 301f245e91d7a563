"""Run -> Parts: the only file that reads every table."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline import compatibility as refusals
from pathline.backbones.ddt import SHARING
from pathline.backbones.projector import aligned
from pathline.backbones.table import BACKBONES
from pathline.backbones.transition_head import headed
from pathline.codecs.cached import stored as stored_codec
from pathline.codecs.table import CODECS
from pathline.config.layers import Problem
from pathline.config.pick import Pick, bind, problems, settled
from pathline.config.run import AUTO, PLACES, Run, Sample, picks_of, terms_of
from pathline.data.sources.rows import SOURCES
from pathline.flow.adaptive import ADAPTIVE
from pathline.flow.couplings import COUPLINGS, independent
from pathline.flow.guidance import GUIDANCE, Push
from pathline.flow.paths import PATHS, Path, draw_point
from pathline.flow.solvers import STEPS, counted, integrate, last
from pathline.flow.times import DRAWS, GRIDS, Grid, begun_at
from pathline.metrics.features import FEATURES
from pathline.objectives.alignment import seeing
from pathline.objectives.table import OBJECTIVES
from pathline.objectives.terms import TERMS, compose
from pathline.objectives.transition import step as transition
from pathline.text.cached import stored as stored_text
from pathline.text.learned import Worded
from pathline.text.table import TEXTS
from pathline.training.optim import OPTIMIZERS, SCHEDULES
from pathline.types import Codec, Cond, Facts, Field, Frame, Objective, Point, Text
from pathline.vision.table import VISION

PATH_WORDS = {
    "straight": "x_t = t·x1 + (1 − t)·x0.",
    "trig": "Sine and cosine of a quarter turn: the variance stays (GVP).",
    "vp": "The variance-preserving diffusion, turned to our time.",
}


def _path_row(name: str) -> Callable[[], Path]:
    """A path as a row without settings, with its line for the list."""

    def row() -> Path:
        return PATHS[name]

    row.__doc__ = PATH_WORDS[name]
    return row


TABLES: dict[str, dict[str, Any]] = {
    "data.source": SOURCES,
    "codec": CODECS,
    "text": TEXTS,
    "vision": VISION,
    "backbone": BACKBONES,
    "objective": OBJECTIVES,
    "terms": TERMS,
    "path": {name: _path_row(name) for name in PATHS},
    "times": DRAWS,
    "coupling": COUPLINGS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sample.solver": {**STEPS, **ADAPTIVE, "transition": transition},
    "sample.grid": GRIDS,
    "sample.guidance": GUIDANCE,
    "sample.sharing": SHARING,
    "eval.feature": FEATURES,
}

STILL = Push(0.0, torch.zeros(1, 1, 1))  # to try a sampler with
UNFROZEN = ("none", "labels", "words")  # texts without a frozen encoder
States = Iterator[tuple[float, Tensor]]


class Parts(NamedTuple):
    """A run put together: everything training and drawing need, on the CPU, untrained."""

    facts: Facts
    codec: Codec
    text: Text
    network: nn.Module
    objective: Objective
    path: Path
    draw: Callable[[Tensor, Cond, torch.Generator], Point]  # training points
    draw_at: Callable[[float], Callable[[Tensor, Cond, torch.Generator], Point]]  # at a fixed time
    criterion: Callable
    push: Push | None = None  # of a contrastive term, once it is measured
    any_size: bool = False  # the backbone takes other sizes than it was trained on

    def shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C H W] of x1 for pictures of this (height, width); None: the size most trained on.

        Raises ValueError for a size that the codec or the backbone rules out.
        """
        f, codec = self.facts, self.codec
        height, width = size or (f.height, f.width)
        if size and size != (f.height, f.width) and not self.any_size:
            raise ValueError(
                f"This run's backbone knows the places of {f.height}x{f.width} pictures alone and "
                f"can't draw {height}x{width}; stream_dit and cross_dit draw other sizes."
            )
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"{height}x{width} can't be drawn: both must be multiples of {codec.factor}, the "
                "pixels that a latent position of this codec stands for."
            )
        return codec.channels, height // codec.factor, width // codec.factor


class Sampler(NamedTuple):
    """How a picture is drawn from a field."""

    # (field, x, noise, time that x is of: 0)
    walk: Callable[..., States]
    guide: Callable[[Field, Field, Push | None], Field]  # (field, the other one, the run's push)
    weak: bool  # the other field is a weaker network's, not that of the null condition
    pushes: bool  # the guidance takes a push back
    skips: bool  # the other field does without the route that the network learnt with
    jumps: bool  # the solver asks for average velocities
    heads: bool  # the solver asks for a head's velocities
    # times at which a ddt's encoder runs, from how alike it finds any two steps; None: always
    share: Callable[[Callable[[], Tensor]], Sequence[float]] | None


def problems_of(run: Run) -> list[Problem]:
    """Every wrong row or option of a run, by its dotted key."""
    found = []
    for place, pick in picks_of(run).items():
        table = "terms" if place.startswith("terms.") else place
        if pick.name != "auto" or table not in AUTO:
            wrong = problems(TABLES[table], pick, PLACES[table])
            found += [Problem(f"{place}.{option}", message) for option, message in wrong]
    return found


def assemble(run: Run, facts: Facts) -> Parts:
    """Build the parts of a run for data of these facts. Raises ValueError where parts don't fit."""
    refusals.refuse_unseen(run, seen=facts.vision_width > 0)
    path = bound(run, "path")()
    objective = bound(run, "objective")(path)
    codec = _codec(run, facts)
    with torch.random.fork_rng(devices=[]):  # the initial weights are a function of the seed alone
        torch.manual_seed(run.seed)
        text = _text(run, facts)
        frame = _frame(facts, codec, text)
        backbone = bound(run, "backbone")(frame)
        network = Worded(text.module, backbone) if text.module else backbone
        if objective.head is not None:
            network = headed(network, backbone, frame, **objective.head)
            tokens = partial(objective.loss, patch=network.head.size)
            objective = objective._replace(loss=tokens)
        if own := alignment_of(run):
            network = aligned(network, backbone, facts.vision_width, own["projector"], own["width"])
            objective = objective._replace(loss=seeing(objective.loss))
    refusals.refuse_narrow(objective, backbone, codec.channels)
    refusals.refuse_one_time(objective, run.backbone)
    refusals.refuse_sizes(run, facts, codec, backbone, objective)
    couple, times = bound(run, "coupling"), bound(run, "times")

    def draw(x1: Tensor, cond: Cond, rng: torch.Generator) -> Point:
        return draw_point(x1, rng, path=path, draw=times, couple=couple, cond=cond)

    made = (facts, codec, text, network, objective, path, draw, partial(_draw_at, path))
    return Parts(*made, criterion(run), any_size=run.backbone.name not in refusals.ONE_SIZE)


def _codec(run: Run, facts: Facts) -> Codec:
    make = partial(bound(run, "codec"), facts)
    return stored_codec(make, facts.made) if facts.made else make()


def _text(run: Run, facts: Facts) -> Text:
    make = partial(bound(run, "text"), facts)
    if facts.made is None or run.text.name in UNFROZEN:
        return make()
    return stored_text(make, facts.made)


def put_on(parts: Parts, device: torch.device) -> None:
    """Move the network; tell codec and text encoder where their weights will run."""
    parts.network.to(device)
    for to in (parts.codec.to, parts.text.to):
        if to:
            to(device)


def labelled(text: Text) -> bool:
    """Whether it reads classes; a frozen encoder is not woken to find out."""
    return not text.width and text.null.labels is not None


def sampler(sample: Sample, path: Path) -> Sampler:
    """The solver, grid and guidance that `sample` names, tried: what can't be is refused now."""
    shares, how, by = sample.sharing.name != "none", sample.solver.name, sample.guidance.name
    at, guide = "sample.solver", _row("sample.guidance", sample.guidance)
    solver = bind(TABLES[at], sample.solver, PLACES[at])  # unnamed: networks complain within it
    guide(torch.zeros_like, torch.zeros_like, STILL)
    which = {"weak": by == "autoguidance", "pushes": by == "contrastive"}
    which |= {"skips": by == "path_drop", "jumps": how == "jump", "heads": how == "transition"}
    tried = refusals.named(f"{at}={how}", _asked)
    if how in ADAPTIVE:
        if shares:
            refusals.refuse_own_steps(how)
        walk = partial(_walk_adaptive, solver=solver)
        tried(walk)
        return Sampler(walk, guide, **which, share=None)
    grid = _row("sample.grid", sample.grid)(sample.steps)
    walk = partial(_walk, grid=grid, solver=solver, path=path)
    share = partial(_row("sample.sharing", sample.sharing), grid) if shares else None
    asked = tried(partial(walk, grid=grid[:2]))
    if share:  # a head's evaluations are not the backbone's
        share(partial(torch.eye, len(grid[1:]) * (1 if which["heads"] else asked)))
    return Sampler(walk, guide, **which, share=share)


def _asked(walk: Callable[..., States]) -> int:
    """How often a walk asks its field."""
    still, calls = counted(lambda x, *_: torch.zeros_like(x))
    last(walk(still, STILL.mean[None], torch.zeros_like))
    return calls()


def _walk(
    field: Field, x: Tensor, noise: Callable, start: float = 0.0, *, grid: Grid, solver, path: Path
) -> States:
    return integrate(field, x, begun_at(grid, start), solver, noise, path)


def _walk_adaptive(field: Field, x: Tensor, _: Callable, start: float = 0.0, *, solver) -> States:
    return solver(field, x, start=start)


def optimizer(run: Run, network: nn.Module) -> torch.optim.Optimizer:
    return bound(run, "optimizer")(network)


def alignment_of(run: Run) -> dict[str, Any]:
    """Settings of the term that reads a frozen encoder's features; {} where it isn't there."""
    term = terms_of(run).get("alignment")
    return settled(TERMS, term[1], PLACES["terms"]) if term else {}


def rate(run: Run) -> Callable[[int], float]:
    """The learning rate's share at an update."""
    schedule = bound(run, "schedule")
    return lambda update: schedule(update, run.train.updates)


def bound(run: Run, place: str) -> Callable:
    """The run's row of a place with its options; its refusals name it."""
    return _row(place, picks_of(run)[place])


def _row(place: str, pick: Pick) -> Callable:
    return refusals.named(f"{place}={pick.name}", bind(TABLES[place], pick, PLACES[place]))


def criterion(run: Run) -> Callable:
    """The run's loss terms as one."""
    made = {}
    for name, (weight, row) in terms_of(run).items():
        made[name] = weight, refusals.named(f"terms.{name}", bind(TERMS, row, PLACES["terms"]))
    return compose(made)


def _frame(facts: Facts, codec: Codec, text: Text) -> Frame:
    sizes = facts.sizes or ((facts.height, facts.width),)
    for height, width in sizes:
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"data.size {height}x{width} is no multiple of {codec.factor}, "
                "the pixels a latent position of this codec stands for."
            )
    height, width = max(sizes, key=lambda size: size[0] * size[1])  # beyond it places are stretched
    height, width = height // codec.factor, width // codec.factor
    classes = len(facts.names) if labelled(text) else 0
    return Frame(codec.channels, height, width, classes, text.width, text.pooled_width)


def _draw_at(path: Path, t: float) -> Callable[[Tensor, Cond, torch.Generator], Point]:
    def draw(x1: Tensor, cond: Cond, rng: torch.Generator) -> Point:
        times = partial(_constant, t=t)
        return draw_point(x1, rng, path=path, draw=times, couple=independent, cond=cond)

    return draw


def _constant(x1: Tensor, _: torch.Generator, *, t: float) -> Tensor:
    return torch.full((len(x1),), t, device=x1.device)
