"""Paths from noise to data, x_t = α(t)·x1 + σ(t)·x0, and what can be read from one point.

A velocity, the noise, the data and the score at a point (xt, t) determine one another by the path's
four coefficients.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pathline.types import Cond, Point

State = Float[Tensor, "b *shape"]
Time = float | Float[Tensor, " b"]


class Path(NamedTuple):
    """Coefficients of a path; each maps a float or a tensor [B] to the like."""

    alpha: Callable[[Any], Any]  # of the data: 0 … 1, rising
    sigma: Callable[[Any], Any]  # of the noise: 1 … 0, falling
    d_alpha: Callable[[Any], Any]
    d_sigma: Callable[[Any], Any]


def like(t: Time, x: State) -> float | Tensor:
    """t [B] with the rank of x, to multiply by it; a float is unchanged."""
    return t.view(-1, *[1] * (x.ndim - 1)) if isinstance(t, Tensor) else t


def interpolate(path: Path, x0: State, x1: State, t: Time) -> State:
    """The point of the path at t."""
    return like(path.alpha(t), x1) * x1 + like(path.sigma(t), x0) * x0


def velocity(path: Path, x0: State, x1: State, t: Time) -> State:
    """The velocity of the path at t: the derivative of `interpolate` by t."""
    return like(path.d_alpha(t), x1) * x1 + like(path.d_sigma(t), x0) * x0


def x1_from_velocity(path: Path, v: State, xt: State, t: Time) -> State:
    """The data that a velocity points to; x + (1 − t)·v on the straight path."""
    toward = like(path.sigma(t), xt) * v - like(path.d_sigma(t), xt) * xt
    return toward / like(determinant(path, t), xt)


def x0_from_velocity(path: Path, v: State, xt: State, t: Time) -> State:
    """The noise that a velocity comes from; x − t·v on the straight path."""
    away = like(path.d_alpha(t), xt) * xt - like(path.alpha(t), xt) * v
    return away / like(determinant(path, t), xt)


def velocity_from_x1(path: Path, x1: State, xt: State, t: Time, floor: float = 0.0) -> State:
    """The velocity that leads to x1, with σ held at `floor` or above.

    On the straight path this is JiT's (x1 − xt) / max(1 − t, floor).
    """
    toward = like(determinant(path, t), xt) * x1 + like(path.d_sigma(t), xt) * xt
    return toward / like(_at_least(path.sigma(t), floor, t), xt)


def velocity_from_x0(path: Path, x0: State, xt: State, t: Time, floor: float = 0.0) -> State:
    """The velocity that leaves x0 behind, with α held at `floor` or above."""
    away = like(path.d_alpha(t), xt) * xt - like(determinant(path, t), xt) * x0
    return away / like(_at_least(path.alpha(t), floor, t), xt)


def score_from_velocity(path: Path, v: State, xt: State, t: Time, floor: float = 0.0) -> State:
    """∇ log p_t(xt) = −x0 / σ, with σ held at `floor` or above (SiT, arXiv 2401.08740)."""
    return -x0_from_velocity(path, v, xt, t) / like(_at_least(path.sigma(t), floor, t), xt)


def velocity_from_score(path: Path, score: State, xt: State, t: Time, floor: float = 0.0) -> State:
    """The velocity whose score this is, with α held at `floor` or above."""
    return velocity_from_x0(path, -like(path.sigma(t), xt) * score, xt, t, floor)


def determinant(path: Path, t: Any) -> Any:
    """α'·σ − α·σ', which turns (xt, v) into (x1, x0); 1 on the straight path."""
    return path.d_alpha(t) * path.sigma(t) - path.alpha(t) * path.d_sigma(t)


def draw_point(
    x1: State,
    cond: Cond | None,
    rng: torch.Generator,
    *,
    path: Path,
    draw: Callable[[Tensor, torch.Generator], Tensor],
    couple: Callable[[Tensor, Tensor, Cond | None], Tensor],
) -> Point:
    """One training point for each row of x1: its noise, its time, its position and velocity.

    `draw` is a bound row of DRAWS, `couple` one of COUPLINGS; rng lives on the device of x1.
    """
    x0 = torch.randn(x1.shape, generator=rng, device=x1.device, dtype=x1.dtype)
    # Paired before the times are chosen: a coupling knows noise and data, not t.
    x0 = couple(x0, x1, cond)
    t = draw(x1, rng)
    xt, v = interpolate(path, x0, x1, t), velocity(path, x0, x1, t)
    return Point(x0, x1, t, xt, v, None if cond is None else cond.labels)


def _at_least(value: Any, floor: float, t: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clamp(min=floor) if floor > 0 else value
    if max(value, floor) <= 0:
        raise ValueError(f"This conversion divides by 0 at t = {t}. Pass a floor above 0.")
    return max(value, floor)


def _of(t: Any) -> Any:
    """The module whose sin, exp, … take t."""
    return torch if isinstance(t, Tensor) else math


def _vp_log_alpha(t: Any) -> Any:
    return -0.25 * (1 - t) ** 2 * (VP_HIGH - VP_LOW) - 0.5 * (1 - t) * VP_LOW


def _vp_alpha(t: Any) -> Any:
    return _of(t).exp(_vp_log_alpha(t))


def _vp_sigma(t: Any) -> Any:
    return _of(t).sqrt(-_of(t).expm1(2 * _vp_log_alpha(t)))


def _vp_d_alpha(t: Any) -> Any:
    return _vp_alpha(t) * (0.5 * (1 - t) * (VP_HIGH - VP_LOW) + 0.5 * VP_LOW)


def _vp_d_sigma(t: Any) -> Any:
    # infinite at t = 1: held at its value of t = 1 − 1e-5, where SiT ends its training times
    return -_vp_alpha(t) * _vp_d_alpha(t) / _at_least(_vp_sigma(t), 1e-3, t)


QUARTER = math.pi / 2
VP_LOW, VP_HIGH = 0.1, 20.0  # β at the data's end and at the noise's (arXiv 2011.13456)

STRAIGHT = Path(lambda t: t, lambda t: 1 - t, lambda _: 1.0, lambda _: -1.0)
TRIG = Path(  # sines on both sides, so that both ends are exact
    lambda t: _of(t).sin(QUARTER * t),
    lambda t: _of(t).sin(QUARTER * (1 - t)),
    lambda t: QUARTER * _of(t).cos(QUARTER * t),
    lambda t: -QUARTER * _of(t).cos(QUARTER * (1 - t)),
)
VP = Path(_vp_alpha, _vp_sigma, _vp_d_alpha, _vp_d_sigma)  # α(0) = 0.0066, not quite 0

PATHS = {"straight": STRAIGHT, "trig": TRIG, "vp": VP}
