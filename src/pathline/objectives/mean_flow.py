"""Mean flow (arXiv 2505.13447) and improved mean flow (2512.02012): average velocities.

The network maps (x, t, cond, r) to the average velocity u from t to the later r, so that one
evaluation of the solver `jump` goes from t to r: x_r = x + (r − t)·u. At r = t it is the velocity
itself, which every other solver integrates.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pathline.flow.paths import Path, interpolate, velocity
from pathline.objectives.flow import drop, padded, read, read_exactly
from pathline.objectives.mean_flow_target import Average, Lift, Target, difference, exact
from pathline.ranges import NotNegativeFloat, Share, ShareAboveZero, ShareBelowOne, TimeStep
from pathline.types import Batch, Call, Cond, Field, Objective, Output, Point, rows_of


class Aim(NamedTuple):
    """The guided velocity that is learned in place of the plain one."""

    scale: float  # of the resulting guidance; 1: none
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
    follows_network: bool,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Regress u − lift on the velocity, where the lift is how much u from t to r exceeds it.

    The first rows, a share of `instant`, have r = t: no lift, plain flow matching. lift_at: the
    lift's function by the share of the training that is done. follows_network: the derivative
    follows the network's velocity u(x, t, t), not the sample's. Only the last pass has gradients.
    Terms read u − lift as the velocity, so that each has its usual meaning.
    """
    to_velocity = partial(read, path=path, prediction=prediction, floor=floor)
    # Points with two times; the first rows have r = t.
    cond = drop(batch.cond, batch.null, dropout, rng) if training else batch.cond
    # 1e-6, or rounding would cost a row: 0.29·100 is 28.999….
    first = int(len(batch.x1) * instant + 1e-6)
    point, r = _spanned(draw(batch.x1, cond, rng), first, cond, draw, rng, path)
    v = point.v if prediction == "v" else to_velocity(point.x1, point.xt, point.t)
    # Learned guidance replaces the velocity that is regressed on.
    if aim.scale != 1:
        null = drop(cond, batch.null, 1.0, rng)
        v = _guided(partial(_average, network, to_velocity), point, v, cond, null, aim)

    # (r − t)·du/dt of the other rows, without gradients.
    late, lift = slice(first, None), None
    if first < len(v):
        average = partial(_average, network, to_velocity, rows_of(cond, late))
        where = point.xt[late], point.t[late], r[late], v[late]
        lift = _lift(average, *where, lift_at(batch.done), follows_network)
    # The one pass with gradients, over all rows.
    out: Output = network(point.xt, point.t, cond, Call(r))
    u = to_velocity(out.value.float(), point.xt, point.t)
    lifts = torch.zeros_like(v)
    if lift is not None:
        lifts[late] = lift.at(u[late])
    return criterion(point._replace(v=v), out._replace(value=u - lifts))


def field(network, cond: Cond, *, path: Path, prediction: str) -> Field:
    """The average velocity from t to r, as a field of (x, t, r); without r the velocity at t."""

    def between_times(x: Tensor, t: float | Tensor, r: float | Tensor | None = None) -> Tensor:
        times = _times(t, x)
        call = Call(times if r is None else _times(r, x))
        value = network(x, times, cond, call).value.to(x.dtype)
        return read_exactly(value, x, t, path, prediction)

    return between_times


def _times(t: float | Tensor, x: Tensor) -> Tensor:
    return t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)


def _spanned(
    point: Point, first: int, cond: Cond, draw, rng: torch.Generator, path: Path
) -> tuple[Point, Tensor]:
    """The point with a later time r for every row: r = t before row `first`, then a second time.

    The point moves to the earlier of the two times.
    """
    if first == len(point.t):
        return point, point.t
    # A second time of the same distribution as r, for rows after `first`; sorted, t ≤ r (MeanFlow,
    # arXiv 2505.13447).
    second = draw(point.x1[first:], rows_of(cond, slice(first, None)), rng).t
    pair = point.t, torch.cat([point.t[:first], second])
    t, r = torch.minimum(*pair), torch.maximum(*pair)
    x0, x1 = point.x0, point.x1
    xt, v = interpolate(path, x0, x1, t), velocity(path, x0, x1, t)
    return point._replace(t=t, xt=xt, v=v), r


def _average(network, to_velocity, cond: Cond, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    return to_velocity(network(x, t, cond, Call(r)).value.float(), x, t)


@torch.no_grad()
def _guided(average, point: Point, v: Tensor, cond: Cond, null: Cond, aim: Aim) -> Tensor:
    """scale·(1 − mix)·v + mix·u(cond) + rest·u(null): its fixed point is guidance at `scale`.

    Unconditional rows and times outside the interval keep the plain velocity.
    """
    # Rows whose condition is the null have nothing to be guided by.
    differs = [
        _differs(value, blank)
        for value, blank in zip(cond, null, strict=True)
        if value is not None and blank is not None
    ]
    if not differs:
        raise ValueError(
            f"objective.guidance={aim.scale} is wrong because this run has no conditions to guide "
            "by. Set objective.guidance=1, or a text encoder (text=labels …)."
        )
    # Weights of v, u(null) and u(cond); they sum to 1.
    share = aim.scale * (1 - aim.mix)
    x, t = point.xt, point.t
    guided = share * v + (1 - share - aim.mix) * average(null, x, t, t)
    if aim.mix:
        guided = guided + aim.mix * average(cond, x, t, t)
    inside = torch.stack(differs).any(0) & (t >= aim.low) & (t <= aim.high)
    return torch.where(inside.view(-1, *[1] * (v.dim() - 1)), guided, v)


def _differs(value: Tensor, blank: Tensor) -> Tensor:
    """Which rows differ; the shorter of two texts is padded."""
    if value.dim() == 1:
        return value != blank
    longest = max(value.shape[1], blank.shape[1])
    return (padded(value, longest) != padded(blank, longest)).flatten(1).any(1)


@torch.no_grad()
def _lift(
    average: Average,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    v: Tensor,
    target: Target,
    follows_network: bool,
) -> Lift:
    if follows_network:
        with torch.compiler.set_stance("force_eager"):  # of fewer rows than what is compiled
            v = average(x, t, t)
    return target(average, x, t, r, v)


def build_mean_flow(
    lift_at: Callable[[float], Target],
    aim: Aim,
    path: Path,
    prediction: Literal["v", "x1"],
    floor: float,
    dropout: float,
    instant: float,
    *,
    follows_network: bool,
    needs: tuple[str, ...] = (),
) -> Objective:
    if aim.low > aim.high:
        raise ValueError(
            f"low={aim.low} high={aim.high} is wrong because low is above high. Set e.g. low=0 "
            "high=1."
        )
    reading = {"path": path, "prediction": prediction}
    rows = {"dropout": dropout, "instant": instant, "floor": floor}
    learn = partial(
        loss, lift_at=lift_at, aim=aim, follows_network=follows_network, **rows, **reading
    )
    # least_rows: without one row of r = t in a micro-batch no velocity would be trained by it.
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


def mean_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: Share = 0.1,
    floor: ShareAboveZero = 0.05,
    instant: Share = 0.75,
    guidance: NotNegativeFloat = 1.0,
    mix: ShareBelowOne = 0.5,
    low: Share = 0.0,
    high: Share = 1.0,
    derivative: Derivative = "exact",
    step: TimeStep = 0.005,
) -> Objective:
    """Mean flow: average velocities, sampled in one step or few with solver=jump.

    Best with terms.adaptive in place of mse. dropout, floor: as of flow. instant: share of rows
    with r = t. guidance: scale of the guidance that is part of the target (sample without any
    then), for times low to high; mix: share of the network's velocity in the target, which has less
    variance. derivative: exact, or a difference over `step` for networks without forward AD.
    """
    lift_at, aim = _along(derivative, step), Aim(guidance, mix, low, high)
    needs = NEEDS[derivative]
    return build_mean_flow(
        lift_at, aim, path, prediction, floor, dropout, instant, follows_network=False, needs=needs
    )


def improved_mean_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: Share = 0.1,
    floor: ShareAboveZero = 0.05,
    instant: Share = 0.5,
    guidance: NotNegativeFloat = 1.0,
    low: Share = 0.0,
    high: Share = 1.0,
    derivative: Derivative = "exact",
    step: TimeStep = 0.005,
) -> Objective:
    """Mean flow whose derivative follows the network's velocity, which has less variance.

    Guidance gives the sample's velocity the weight 1: mix is 1 − 1 / guidance. Settings as of
    mean_flow.
    """
    mix = max(0.0, 1 - 1 / guidance) if guidance else 0.0
    lift_at, aim = _along(derivative, step), Aim(guidance, mix, low, high)
    needs = NEEDS[derivative]
    return build_mean_flow(
        lift_at, aim, path, prediction, floor, dropout, instant, follows_network=True, needs=needs
    )
