"""Dormand-Prince 5(4): adapts its steps to keep the error of each image within a tolerance.

Coefficients and control: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, II.4.
"""

import math
from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from pathline.flow.solvers import Solver, counted
from pathline.ranges import NotNegativeFloat, Positive, PositiveFloat
from pathline.types import Field

State = Float[Tensor, "b *shape"]


def dopri5(
    field: Field,
    x: State,
    start: float = 0.0,
    stop: float = 1.0,
    *,
    rtol: NotNegativeFloat = 1e-3,
    atol: PositiveFloat = 1e-6,
    limit: Positive = 10_000,
) -> Iterator[tuple[float, Tensor]]:
    """Walk from start to stop; yields (t, x) of every state it accepts, the first included.

    The error of a step is the worst one over the batch, so the steps depend on the batch.
    2 evaluations to begin, 6 a step tried. Raises ValueError where the field is not finite and
    where `limit` evaluations do not suffice.
    """
    # Every evaluation counts against the limit, those of rejected steps too.
    field, calls = counted(field)
    yield start, x  # before it is evaluated: a preview's velocity there is then this one
    t, v = start, field(x, start)
    # calm: error ratio of the last accepted step, for the PI controller.
    dt, calm = _first_step(field, x, v, start, stop, rtol, atol), 1e-4
    while t < stop:
        # The last step ends at `stop` exactly.
        arrives = dt >= stop - t
        t_next = stop if arrives else t + dt
        x_next, v_next, error = _attempt(field, x, v, t, t_next)
        # A ratio of 1 or less means that every image keeps its tolerance.
        ratio = _worst(error, x, x_next, rtol, atol)
        _check(ratio, t, calls(), limit)
        dt = (t_next - t) * _growth(ratio, calm)
        if ratio <= 1:
            t, x, v, calm = t_next, x_next, v_next, max(ratio, 1e-4)
            yield t, x


def _attempt(
    field: Field, x: Tensor, v: Tensor, t: float, t_next: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The fifth-order step, the velocity at its end (the next step's first), its error."""
    x_next, slopes, dt = x, [v], t_next - t
    for node, row in NODES:
        x_next = _along(x, dt, row, slopes)
        slopes.append(field(x_next, min(t + node * dt, t_next)))  # not past the end by rounding
    return x_next, slopes[-1], _along(x.new_zeros(()), dt, ERROR, slopes)


def _along(x: Tensor, dt: float, weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        x = x + dt * weight * slope if weight else x
    return x


def _worst(error: Tensor, x: Tensor, x_next: Tensor, rtol: float, atol: float) -> float:
    """Root mean square of error over tolerance, of the image where it is largest."""
    tolerance = atol + rtol * x.abs().maximum(x_next.abs())
    return (error / tolerance).flatten(1).square().mean(1).sqrt().max().item()


def _growth(ratio: float, calm: float) -> float:
    """How much longer the next step may be; remembers the last error (PI control)."""
    return min(10.0, max(0.2, 0.9 * calm**0.04 / max(ratio, 1e-10) ** 0.17))


def _first_step(
    field: Field, x: Tensor, v: Tensor, start: float, stop: float, rtol: float, atol: float
) -> float:
    """Hairer's guess, from the size of x, of its velocity and of one small Euler step's change."""
    zero = x.new_zeros(x.shape)
    size, speed = _worst(x, x, zero, rtol, atol), _worst(v, x, zero, rtol, atol)
    # A step in which Euler would change x by a hundredth of its size.
    small = 0.01 * size / speed if size > 1e-5 and speed > 1e-5 else 1e-6
    small = min(small, stop - start)
    bend = _worst(field(x + small * v, start + small) - v, x, zero, rtol, atol) / small
    # Hairer's second guess: both derivatives keep an error of order 5 at a hundredth.
    steep = max(speed, bend)
    guess = (0.01 / steep) ** 0.2 if steep > 1e-15 else max(1e-6, small * 1e-3)
    return min(100 * small, guess, stop - start)


def _check(ratio: float, t: float, calls: int, limit: int) -> None:
    if not math.isfinite(ratio):
        raise ValueError(f"The field is not finite near t = {t:.4g}: check the network for NaN.")
    if calls >= limit:
        raise ValueError(
            f"limit={limit} is too small: dopri5 is at t = {t:.4g} after {calls} evaluations. "
            "Increase limit, rtol or atol, or set a solver of fixed steps."
        )


NODES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

ADAPTIVE = {"dopri5": Solver(dopri5, adaptive=True, evaluates_end=True)}
