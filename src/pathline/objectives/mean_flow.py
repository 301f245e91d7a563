"""Mean flow (arXiv 2505.13447), improved (2512.02012) and α-Flow (2510.20771): average velocities.

The network answers (x, t, cond, r) with the average velocity u on the way from t to the later r, so
one evaluation of the solver step `jump` leads from t to r: x_r = x + (r − t)·u. At r = t it is the
velocity itself, from which every other solver draws.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pathline.flow.paths import Path, interpolate, velocity
from pathline.objectives.flow import drop, padded, read, read_exactly, refuse_floor, refuse_shares
from pathline.objectives.mean_flow_target import Average, Lift, Target, between, difference, exact
from pathline.types import Batch, Call, Cond, Field, Objective, Output, Point, rows_of

LEAST = 0.005  # α below which the derivative takes over; as near to 1, there is no lift


class Aim(NamedTuple):
    """The guided velocity that is learnt in place of the plain one."""

    scale: float  # of the guidance that comes out; 1: none
    mix: float  # share of the network's own velocity in the target
    low: float  # times that are guided
    high: float


def loss(
    network,
    batch: Batch,
    rng: torch.Generator,
    draw,
    criterion,
    *,
    path: Path,
    prediction: str,
    floor: float,
    dropout: float,
    instant: float,
    aim: Aim,
    lift_at: Callable[[float], Target],
    own: bool,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Regress u − lift on the velocity, where the lift is what the way from t to r adds to it.

    The first rows, a share of `instant`, have r = t: no lift, plain flow matching. lift_at: the
    lift by the share of the training that is done. own: it follows the network's own velocity, not
    the drawn one. Only the last pass has gradients.
    Terms see u − lift as the velocity, so that each means what it means elsewhere.
    """
    seen = partial(read, path=path, prediction=prediction, floor=floor)
    cond = drop(batch.cond, batch.null, dropout, rng) if training else batch.cond
    first = int(len(batch.x1) * instant + 1e-6)
    point, r = _spanned(draw(batch.x1, cond, rng), first, cond, draw, rng, path)
    v = point.v if prediction == "v" else seen(point.x1, point.xt, point.t)
    if aim.scale != 1:
        null = drop(cond, batch.null, 1.0, rng)
        v = _guided(partial(_average, network, seen), point, v, cond, null, aim)

    late, lift = slice(first, None), None
    if first < len(v):
        average = partial(_average, network, seen, rows_of(cond, late))
        where = point.xt[late], point.t[late], r[late], v[late]
        lift = _lift(average, *where, lift_at(batch.done), own)
    out: Output = network(point.xt, point.t, cond, Call(r))
    u = seen(out.value.float(), point.xt, point.t)
    lifts = torch.zeros_like(v)
    if lift is not None:
        lifts[late] = lift.at(u[late])
    return criterion(point._replace(v=v), out._replace(value=u - lifts))


def field(network, cond: Cond, *, path: Path, prediction: str) -> Field:
    """The average velocity from t to r, as a field of (x, t, r); without r the velocity at t."""

    def between_times(x: Tensor, t: float | Tensor, r: float | Tensor | None = None) -> Tensor:
        here = _times(t, x)
        call = Call(here if r is None else _times(r, x))
        value = network(x, here, cond, call).value.to(x.dtype)
        return read_exactly(value, x, t, path, prediction)

    return between_times


def _times(t: float | Tensor, x: Tensor) -> Tensor:
    return t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)


def _spanned(
    point: Point, first: int, cond: Cond, draw, rng: torch.Generator, path: Path
) -> tuple[Point, Tensor]:
    """The point with a later time for every row: the row's own, from row `first` on a second draw.

    The earlier one of the two is where the point then lies.
    """
    if first == len(point.t):
        return point, point.t
    second = draw(point.x1[first:], rows_of(cond, slice(first, None)), rng).t
    pair = point.t, torch.cat([point.t[:first], second])
    t, r = torch.minimum(*pair), torch.maximum(*pair)
    x0, x1 = point.x0, point.x1
    xt, v = interpolate(path, x0, x1, t), velocity(path, x0, x1, t)
    return point._replace(t=t, xt=xt, v=v), r


def _average(network, seen, cond: Cond, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    return seen(network(x, t, cond, Call(r)).value.float(), x, t)


@torch.no_grad()
def _guided(average, point: Point, v: Tensor, cond: Cond, null: Cond, aim: Aim) -> Tensor:
    """scale·(1 − mix)·v + mix·u(cond) + the rest·u(null): learnt to the end, guidance at `scale`.

    What asks for nothing, and times outside, keep the plain velocity.
    """
    differs = [
        _differs(asked, blank)
        for asked, blank in zip(cond, null, strict=True)
        if asked is not None and blank is not None
    ]
    if not differs:
        raise ValueError(
            f"objective.guidance is {aim.scale}, but this run has no conditions to guide by: "
            "take objective.guidance=1, or a text encoder (text=labels …)."
        )
    share = aim.scale * (1 - aim.mix)
    x, t = point.xt, point.t
    guided = share * v + (1 - share - aim.mix) * average(null, x, t, t)
    if aim.mix:
        guided = guided + aim.mix * average(cond, x, t, t)
    inside = torch.stack(differs).any(0) & (t >= aim.low) & (t <= aim.high)
    return torch.where(inside.view(-1, *[1] * (v.dim() - 1)), guided, v)


def _differs(asked: Tensor, blank: Tensor) -> Tensor:
    """Which rows are not alike; the shorter of two texts is padded."""
    if asked.dim() == 1:
        return asked != blank
    longest = max(asked.shape[1], blank.shape[1])
    return (padded(asked, longest) != padded(blank, longest)).flatten(1).any(1)


@torch.no_grad()
def _lift(
    average: Average, x: Tensor, t: Tensor, r: Tensor, v: Tensor, target: Target, own: bool
) -> Lift:
    if own:
        with torch.compiler.set_stance("force_eager"):  # of fewer rows than what is compiled
            v = average(x, t, t)
    return target(average, x, t, r, v)


def _objective(
    lift_at: Callable[[float], Target],
    aim: Aim,
    path: Path,
    prediction: Literal["v", "x1"],
    floor: float,
    dropout: float,
    instant: float,
    *,
    own: bool,
    needs: tuple[str, ...] = (),
) -> Objective:
    refuse_shares(instant=instant, dropout=dropout)
    refuse_floor(prediction, floor)
    if aim.scale < 0 or not 0 <= aim.mix < 1:
        raise ValueError(
            f"guidance is {aim.scale}, mix {aim.mix}; want guidance of 0 or above and 0 ≤ mix < 1"
        )
    if not 0 <= aim.low <= aim.high <= 1:
        raise ValueError(
            f"the guidance interval is {aim.low} to {aim.high}; want 0 ≤ low ≤ high ≤ 1"
        )
    reading = {"path": path, "prediction": prediction}
    rows = {"dropout": dropout, "instant": instant, "floor": floor}
    learn = partial(loss, lift_at=lift_at, aim=aim, own=own, **rows, **reading)
    return Objective(
        learn,
        partial(field, **reading),
        prediction,
        answers="average",
        needs=("later_time", *needs),
        least_rows=math.ceil(1 / instant) if instant else 1,
    )


Derivative = Literal["exact", "difference"]
NEEDS: dict[Derivative, tuple[str, ...]] = {"exact": (), "difference": ("float32_weights",)}


def _along(derivative: str, step: float) -> Callable[[float], Target]:
    lift = exact if derivative == "exact" else partial(difference, step=step)
    return lambda _: lift


def _falling(done: float, alpha: float, begin: float, end: float) -> Target:
    """α-Flow's at this share of the training: α falls from 1 to `alpha` along a sigmoid."""
    steep = 25 * ((begin + end) / 2 - done) / (end - begin)
    now = alpha + (1 - alpha) * (1 + math.tanh(steep / 2)) / 2
    if now < LEAST:
        return exact
    return partial(between, alpha=1.0 if now > 1 - LEAST else now)


def mean_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: float = 0.1,
    floor: float = 0.05,
    instant: float = 0.75,
    guidance: float = 1.0,
    mix: float = 0.5,
    low: float = 0.0,
    high: float = 1.0,
    derivative: Derivative = "exact",
    step: float = 0.005,
) -> Objective:
    """Mean flow: average velocities, to be drawn in one step or few with solver=jump.

    Best with terms.adaptive in place of mse. dropout, floor: as of flow. instant: share of rows
    with r = t. guidance: scale of the guidance that is learnt in (draw without any then), for times
    low to high; mix: how much of the target is the network's own velocity, which varies less.
    derivative: exact, or a difference over `step` for networks without forward AD.
    """
    lift_at, aim = _along(derivative, step), Aim(guidance, mix, low, high)
    needs = NEEDS[derivative]
    return _objective(
        lift_at, aim, path, prediction, floor, dropout, instant, own=False, needs=needs
    )


def improved_mean_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: float = 0.1,
    floor: float = 0.05,
    instant: float = 0.5,
    guidance: float = 1.0,
    low: float = 0.0,
    high: float = 1.0,
    derivative: Derivative = "exact",
    step: float = 0.005,
) -> Objective:
    """Mean flow whose derivative follows the network's own velocity, which varies less.

    Guided so that the drawn velocity counts once: mix is 1 − 1 / guidance. Settings as of
    mean_flow.
    """
    mix = max(0.0, 1 - 1 / guidance) if guidance else 0.0
    lift_at, aim = _along(derivative, step), Aim(guidance, mix, low, high)
    needs = NEEDS[derivative]
    return _objective(
        lift_at, aim, path, prediction, floor, dropout, instant, own=True, needs=needs
    )


def alpha_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: float = 0.1,
    floor: float = 0.05,
    instant: float = 0.25,
    guidance: float = 1.0,
    mix: float = 0.5,
    low: float = 0.0,
    high: float = 1.0,
    alpha: float = 0.5,
    begin: float = 0.0,
    end: float = 0.0,
) -> Objective:
    """α-Flow: average velocities that agree along the way, learnt without a derivative.

    alpha: how far towards r the way is cut; 1 is flow matching along trajectories, towards 0 mean
    flow. begin, end: shares of the training between which it falls there from 1 (the paper: 0.5 to
    0.83, to alpha 0, where the derivative takes over); end 0: it stays. Settings as of mean_flow.
    """
    if not 0 <= begin <= end <= 1 or (begin == end and end):
        raise ValueError(
            f"alpha falls from begin={begin} to end={end}; want 0 ≤ begin < end ≤ 1, or neither"
        )
    if not (0 if end else LEAST) <= alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}; want {LEAST} to 1, or less where it falls there (end above 0): "
            "what is 0 throughout is objective=mean_flow"
        )
    stays = partial(between, alpha=alpha)
    lift_at = partial(_falling, alpha=alpha, begin=begin, end=end) if end else lambda _: stays
    aim = Aim(guidance, mix, low, high)
    return _objective(lift_at, aim, path, prediction, floor, dropout, instant, own=False)
