"""Solvers: each is one step along a field; the only loop is `integrate`.

A step is (field, x, t, t_next, memory, noise, path, *, settings) -> (x_next, memory). Times are
floats, so that coefficients are float64 and no device is synchronised; x keeps its dtype. `memory`
is None at first and returned, never stored; `noise(x)` gives a standard normal like x; most steps
need neither noise nor path. Formulas of the multistep ones: DPM-Solver++ (arXiv 2211.01095), UniPC
(2302.04867).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from pathline.flow.paths import (
    STRAIGHT,
    Path,
    score_from_velocity,
    x0_from_velocity,
    x1_from_velocity,
)
from pathline.ranges import NotNegativeFloat, Share
from pathline.types import Field

State = Float[Tensor, "b *shape"]
Stepped = tuple[State, Any]
Noise = Callable[[Tensor], Tensor] | None
Step = Callable[..., tuple[Tensor, Any]]


class Solver(NamedTuple):
    """A row of STEPS that is more than a step of fixed length along velocities."""

    step: Callable[..., Any]
    asks: Literal["velocity", "average", "transition"] = "velocity"  # of the objective's field
    adaptive: bool = False  # a whole walk, (field, x, start) -> states, that chooses its steps
    evaluates_end: bool = False  # evaluates the field at the end of a step, so at t = 1 too


def integrate(
    field: Field,
    x: State,
    grid: Sequence[float],
    step: Step | None = None,
    noise: Noise = None,
    path: Path = STRAIGHT,
) -> Iterator[tuple[float, Tensor]]:
    """Walk the grid from x; yields (t, x) of every state, the first included. Default: euler."""
    step, memory = step or euler, None
    yield grid[0], x
    for t, t_next in pairwise(grid):
        x, memory = step(field, x, t, t_next, memory, noise, path)
        yield t_next, x


def last(states: Iterable[tuple[float, Tensor]]) -> Tensor:
    """The state at the end of a walk."""
    x = None
    for _, state in states:
        x = state
    if x is None:
        raise ValueError("The walk has no state: its iterator is exhausted. Pass a fresh one.")
    return x


def counted(field: Field) -> tuple[Field, Callable[[], int]]:
    """The same field, and a function that returns the number of its evaluations."""
    evaluations = 0

    def counting(*arguments: Any) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return field(*arguments)

    return counting, lambda: evaluations


def euler(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """First order, 1 evaluation. On the straight path also DDIM and DPM-Solver++(1)."""
    return x + (t_next - t) * field(x, t), memory


def midpoint(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """Second order, 2 evaluations, none at t_next."""
    half = (t_next - t) / 2
    v = field(x + half * field(x, t), t + half)
    return x + 2 * half * v, memory


def heun(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """Second order, 2 evaluations, the second at t_next."""
    dt, v = t_next - t, field(x, t)
    return x + dt / 2 * (v + field(x + dt * v, t_next)), memory


def rk4(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """Fourth order, 4 evaluations: the classical Runge-Kutta."""
    dt, middle = t_next - t, (t + t_next) / 2
    v1 = field(x, t)
    v2 = field(x + dt / 2 * v1, middle)
    v3 = field(x + dt / 2 * v2, middle)
    v4 = field(x + dt * v3, t_next)
    return x + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4), memory


def adams2(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """Second order, 1 evaluation: Adams-Bashforth on an uneven grid; memory = last (t, v)."""
    dt, v = t_next - t, field(x, t)
    if memory is None:
        return x + dt * v, (t, v)
    t_last, v_last = memory
    return x + dt * (v + dt / (2 * (t - t_last)) * (v - v_last)), (t, v)


def dpmpp2m(
    field: Field, x: State, t: float, t_next: float, memory: Any, _noise: Noise, path: Path
) -> Stepped:
    """DPM-Solver++(2M): second order, 1 evaluation; memory = last (t, predicted x1)."""
    x1 = x1_from_velocity(path, field(x, t), x, t)
    return _exponential(path, x, x1, t, t_next, memory), (t, x1)


def unipc2(
    field: Field, x: State, t: float, t_next: float, memory: Any, _noise: Noise, path: Path
) -> Stepped:
    """UniPC-2 (bh2): corrects the step before with the evaluation that this one needs anyway.

    1 evaluation; memory = (x, t, predicted x1, (t, x1) one step earlier) of the step before.
    """
    x1 = x1_from_velocity(path, field(x, t), x, t)
    earlier = None
    if memory is not None:
        x, earlier = _corrected(path, t, x1, *memory), memory[1:3]
    return _exponential(path, x, x1, t, t_next, earlier), (x, t, x1, earlier)


def ancestral(
    field: Field,
    x: State,
    t: float,
    t_next: float,
    memory: Any,
    noise: Noise,
    path: Path,
    *,
    eta: Share = 1.0,
) -> Stepped:
    """Euler to less noise than t_next has, then fresh noise; eta 0 … 1, 0 is Euler.

    ComfyUI's ancestral step for rectified flow; other paths enter by their ratio σ/α.
    """
    v, alpha, sigma = field(x, t), path.alpha(t_next), path.sigma(t_next)
    x0, x1 = x0_from_velocity(path, v, x, t), x1_from_velocity(path, v, x, t)
    # the share of noise in x before and after the step, and the smaller one that Euler goes to
    ratio, ratio_next = (path.sigma(s) / (path.sigma(s) + path.alpha(s)) for s in (t, t_next))
    down = ratio_next * (1 + eta * (ratio_next / ratio - 1))
    # old: noise that stays, at ratio `down`; fresh fills it up: old² + fresh² = σ².
    old = alpha * down / (1 - down)
    fresh = math.sqrt(max(sigma**2 - old**2, 0.0))
    x = alpha * x1 + old * x0
    return (x + fresh * _sample_noise("ancestral", noise, x) if fresh and eta else x), memory


def sde(
    field: Field,
    x: State,
    t: float,
    t_next: float,
    memory: Any,
    noise: Noise,
    path: Path,
    *,
    diffusion: Literal["constant", "sigma", "linear", "decreasing", "sin2"] = "sigma",
    churn: NotNegativeFloat = 1.0,
) -> Stepped:
    """Euler-Maruyama of dx = (v + w·score) dt + sqrt(2w) dW, w = churn·DIFFUSIONS[diffusion].

    Every w ≥ 0 has the marginals of the flow (SiT, arXiv 2401.08740). Needs many steps; the last
    one goes to the predicted data, without noise.
    """
    w = _diffusion(diffusion, churn, path, t)
    v, dt = field(x, t), t_next - t
    if path.sigma(t_next) == 0:
        return x1_from_velocity(path, v, x, t), memory
    if w == 0:
        return x + dt * v, memory
    # The score takes out of the marginals what the noise puts in, so w is free (SiT).
    x_next = x + dt * (v + w * score_from_velocity(path, v, x, t))
    return x_next + math.sqrt(2 * w * dt) * _sample_noise("sde", noise, x), memory


def jump(field: Field, x: State, t: float, t_next: float, memory: Any, *_: Any) -> Stepped:
    """The step of a flow map: field(x, t, t_next) is the average velocity between the two."""
    return x + (t_next - t) * field(x, t, t_next), memory


def _log_snr(path: Path, t: float) -> float:
    """log(α/σ), from −∞ at the noise to +∞ at the data."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    if alpha == 0 or sigma == 0:
        return math.inf if sigma == 0 else -math.inf
    return math.log(alpha / sigma)


def _exponential(
    path: Path, x: Tensor, x1: Tensor, t: float, t_next: float, earlier: Any
) -> Tensor:
    """The exact step for a constant x1, corrected by its change since `earlier` = (t, x1)."""
    keep, gain = _weights(path, t, t_next)
    x_next = keep * x + gain * x1
    if earlier is None:
        return x_next
    # Second order: x1 extrapolated in log-SNR from two values (DPM-Solver++, arXiv 2211.01095).
    t_last, x1_last = earlier
    before = _log_snr(path, t) - _log_snr(path, t_last)
    ahead = _log_snr(path, t_next) - _log_snr(path, t)
    if math.isinf(before) or math.isinf(ahead):  # at an end of the path: first order
        return x_next
    return x_next + 0.5 * gain * ahead / before * (x1 - x1_last)


def _weights(path: Path, t: float, t_next: float) -> tuple[float, float]:
    """Coefficients of x and x1 in the exact step for a constant x1; no logarithm, no 0/0."""
    keep = path.sigma(t_next) / path.sigma(t)
    return keep, path.alpha(t_next) - path.alpha(t) * keep


def _corrected(
    path: Path, t: float, x1: Tensor, x_last: Tensor, t_last: float, x1_last: Tensor, earlier: Any
) -> Tensor:
    """UniC: the step t_last → t once more, with the x1 predicted at its end."""
    # First order again over the last step, with the x1 predicted at its beginning.
    keep, gain = _weights(path, t_last, t)
    x = keep * x_last + gain * x1_last
    # Without a step before it the corrector has order 1, whose weight is ½.
    if earlier is None:
        return x + 0.5 * gain * (x1 - x1_last)
    t_first, x1_first = earlier
    # Order 2: b1, b2 are the right side of UniPC's system for bh2 (arXiv 2302.04867); its solution
    # is old, b1 − old.
    h = _log_snr(path, t) - _log_snr(path, t_last)
    ratio = (_log_snr(path, t_last) - _log_snr(path, t_first)) / h
    rise = -1 / math.expm1(-h)
    b1, b2 = rise - 1 / h, rise - 2 / h * (rise - 1 / h)
    old = (b1 - b2) / (1 + ratio)
    x = x + gain * (b1 - old) * (x1 - x1_last)
    # After a start at pure noise, where log-SNR is −∞, only the newer difference counts.
    return x if math.isinf(ratio) else x + gain * old / ratio * (x1_last - x1_first)


def _diffusion(name: str, churn: float, path: Path, t: float) -> float:
    return churn * DIFFUSIONS[name](path, t)


def _sample_noise(name: str, noise: Noise, x: Tensor) -> Tensor:
    if noise is None:
        raise ValueError(
            f"sample.solver={name} needs fresh noise. Pass `integrate` a noise function."
        )
    return noise(x)


DIFFUSIONS: dict[str, Callable[[Path, float], float]] = {
    "constant": lambda _path, _t: 1.0,
    "sigma": lambda path, t: path.sigma(t),
    "linear": lambda _path, t: 1 - t,
    "decreasing": lambda _path, t: (math.cos(math.pi * t) + 1) ** 2 / 4,
    "sin2": lambda _path, t: math.sin(math.pi * t) ** 2,
}

STEPS: dict[str, Step | Solver] = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": Solver(heun, evaluates_end=True),
    "rk4": Solver(rk4, evaluates_end=True),
    "adams2": adams2,
    "dpmpp2m": dpmpp2m,
    "unipc2": unipc2,
    "ancestral": ancestral,
    "sde": sde,
    "jump": Solver(jump, asks="average"),
}
