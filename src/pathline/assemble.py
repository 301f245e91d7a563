"""Run -> Parts: the only file that reads every table."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline.backbones import BACKBONES
from pathline.codecs import CODECS
from pathline.config.layers import Problem
from pathline.config.pick import Pick, bind, problems
from pathline.config.run import AUTO, PLACES, Run, Sample, picks_of, terms_of
from pathline.data import SOURCES
from pathline.flow.adaptive import ADAPTIVE
from pathline.flow.couplings import COUPLINGS, independent
from pathline.flow.guidance import GUIDANCE
from pathline.flow.paths import PATHS, Path, draw_point
from pathline.flow.solvers import STEPS, integrate
from pathline.flow.times import DRAWS, GRIDS
from pathline.metrics.features import FEATURES
from pathline.objectives import OBJECTIVES, TERMS
from pathline.objectives.terms import compose
from pathline.text import TEXTS
from pathline.text.learned import Worded
from pathline.training.optim import OPTIMIZERS, SCHEDULES
from pathline.types import Codec, Cond, Facts, Field, Frame, Objective, Point, Text

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
    "backbone": BACKBONES,
    "objective": OBJECTIVES,
    "terms": TERMS,
    "path": {name: _path_row(name) for name in PATHS},
    "times": DRAWS,
    "coupling": COUPLINGS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sample.solver": {**STEPS, **ADAPTIVE},
    "sample.grid": GRIDS,
    "sample.guidance": GUIDANCE,
    "eval.feature": FEATURES,
}

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C H W] of x1."""
        f, codec = self.facts, self.codec
        return codec.channels, f.height // codec.factor, f.width // codec.factor


class Sampler(NamedTuple):
    """How a picture is drawn from a field."""

    walk: Callable[[Field, Tensor, Callable[[Tensor], Tensor]], States]  # (field, x0, noise)
    guide: Callable[[Field, Field], Field]  # (field, the other one)
    weak: bool  # the other field is a weaker network's, not that of the null condition
    jumps: bool  # the solver asks for average velocities


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
    path = _bound(run, "path")()
    objective = _bound(run, "objective")(path)
    codec = _bound(run, "codec")(facts)
    with torch.random.fork_rng(devices=[]):  # the initial weights are a function of the seed alone
        torch.manual_seed(run.seed)
        text: Text = _bound(run, "text")(facts)
        backbone = _bound(run, "backbone")(_frame(facts, codec, text))
    _refuse_narrow(objective, backbone, codec.channels)
    network = Worded(text.module, backbone) if text.module else backbone
    couple, times = _bound(run, "coupling"), _bound(run, "times")

    def draw(x1: Tensor, cond: Cond, rng: torch.Generator) -> Point:
        return draw_point(x1, rng, path=path, draw=times, couple=couple, cond=cond)

    return Parts(
        facts, codec, text, network, objective, path, draw, partial(_draw_at, path), _criterion(run)
    )


def sampler(sample: Sample, path: Path) -> Sampler:
    """The solver, grid and guidance that `sample` names, as one."""
    solver, guide = _row("sample.solver", sample.solver), _row("sample.guidance", sample.guidance)
    guide(_still, _still)  # a scale or an interval that can't be is refused now
    weak, jumps = sample.guidance.name == "autoguidance", sample.solver.name == "jump"
    if sample.solver.name in ADAPTIVE:
        return Sampler(lambda field, x0, _: solver(field, x0), guide, weak, jumps)
    grid = _row("sample.grid", sample.grid)(sample.steps)
    walk = partial(_walk, grid=grid, solver=solver, path=path)
    return Sampler(walk, guide, weak, jumps)


def _walk(field: Field, x0: Tensor, noise: Callable, *, grid, solver, path: Path) -> States:
    return integrate(field, x0, grid, solver, noise, path)


def _still(x: Tensor, *_: object) -> Tensor:
    return torch.zeros_like(x)


def optimizer(run: Run, network: nn.Module) -> torch.optim.Optimizer:
    return _bound(run, "optimizer")(network)


def rate(run: Run) -> Callable[[int], float]:
    """The learning rate's share at an update."""
    schedule = _bound(run, "schedule")
    return lambda update: schedule(update, run.train.updates)


def _bound(run: Run, place: str) -> Callable:
    return _row(place, picks_of(run)[place])


def _row(place: str, pick: Pick) -> Callable:
    return bind(TABLES[place], pick, PLACES[place])


def _criterion(run: Run) -> Callable:
    terms = terms_of(run).items()
    return compose({n: (weight, bind(TERMS, row, PLACES["terms"])) for n, (weight, row) in terms})


def _frame(facts: Facts, codec: Codec, text: Text) -> Frame:
    if facts.height % codec.factor or facts.width % codec.factor:
        raise ValueError(
            f"data.size {facts.height}x{facts.width} is no multiple of {codec.factor}, "
            "the pixels a latent position of this codec stands for."
        )
    height, width = facts.height // codec.factor, facts.width // codec.factor
    classes = len(facts.names) if text.null.labels is not None else 0
    return Frame(codec.channels, height, width, classes, text.width)


def _refuse_narrow(objective: Objective, backbone: nn.Module, channels: int) -> None:
    """A velocity holds a whole patch of noise, which a narrower network can't carry through."""
    shape = getattr(backbone, "shape", None)
    if shape is None or objective.prediction == "x1":
        return
    patch = shape.patch**2 * channels
    narrowest = min(shape.width, shape.bottleneck or shape.width)
    if patch > narrowest:
        raise ValueError(
            f"A patch has {patch} numbers ({shape.patch}x{shape.patch}x{channels}) but the network "
            f"is {narrowest} wide at its narrowest: it can't pass on the noise that a velocity "
            "holds, and would ignore its prompts. Use objective.prediction=x1, a smaller "
            f"backbone.patch, or a width of at least {patch}."
        )


def _draw_at(path: Path, t: float) -> Callable[[Tensor, Cond, torch.Generator], Point]:
    def draw(x1: Tensor, cond: Cond, rng: torch.Generator) -> Point:
        times = partial(_constant, t=t)
        return draw_point(x1, rng, path=path, draw=times, couple=independent, cond=cond)

    return draw


def _constant(x1: Tensor, _: torch.Generator, *, t: float) -> Tensor:
    return torch.full((len(x1),), t, device=x1.device)


def rows_of(cond: Cond, rows: Tensor | Sequence[int]) -> Cond:
    """The condition of these rows."""
    return Cond(*(None if value is None else value[rows] for value in cond))


def moved(cond: Cond, device: torch.device) -> Cond:
    """The condition on the device."""
    return Cond(*(None if v is None else v.to(device, non_blocking=True) for v in cond))
