"""Walks from noise to data: all steps of a solver, and how an x1-prediction ends."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from pathline.flow.paths import STRAIGHT, Path, x1_from_velocity
from pathline.flow.solvers import integrate
from pathline.flow.times import Grid, begun_at
from pathline.types import Field

States = Iterator[tuple[float, Tensor]]  # (t, x)
# Where an adaptive walk of an x1-prediction stops: 1 − the default floor of its loss, which weighs
# errors of later times less than their velocity would.
X1_STOP = 0.95


def walk_grid(
    field: Field,
    x: Tensor,
    noise: Callable,
    start: float = 0.0,
    *,
    grid: Grid,
    solver: Callable,
    path: Path,
    evaluates_end: bool,
    predicts_x1: bool = False,
) -> States:
    """Fixed steps along what is left of the grid after `start`.

    evaluates_end: the solver evaluates the field at the end of a step. predicts_x1: the field is
    read from an x1-prediction.
    """
    times = begun_at(grid, start)
    if predicts_x1 and evaluates_end:
        return landed(integrate(field, x, times[:-1], solver, noise, path), field, path)
    return integrate(field, x, times, solver, noise, path)


def adaptive_walk(
    field: Field,
    x: Tensor,
    _noise: Callable,
    start: float = 0.0,
    *,
    solver: Callable,
    path: Path,
    predicts_x1: bool = False,
) -> States:
    """The steps that the solver chooses; to X1_STOP for an x1-prediction, then one to the end."""
    if not predicts_x1:
        return solver(field, x, start=start)
    before = solver(field, x, start=start, stop=X1_STOP) if start < X1_STOP else [(start, x)]
    return landed(before, field, path)


def landed(
    states: Iterable[tuple[float, Tensor]], field: Field, path: Path = STRAIGHT
) -> Iterator[tuple[float, Tensor]]:
    """A walk that stops before t = 1, and from its last state a step to the x1 predicted there.

    For x1-predictions, whose velocity (x1 − x) / (1 − t) is 0 / 0 at t = 1, where a solver that
    evaluates the end of its steps would ask for it. On the straight path an Euler step, as EDM
    (arXiv 2206.00364), JiT (2511.13720) and diffusers end their Heun.
    """
    t, x = 0.0, None
    for t, x in states:
        yield t, x
    if x is not None:
        yield 1.0, x1_from_velocity(path, field(x, t), x, t)
