"""Difference transition matching (arXiv 2506.23589): sample x1 − x0, then go a part of it.

A step samples Y = x1 − x0 by a small inner flow, with value y and inner time s, of which a head
predicts the velocity from the hidden states of a backbone that runs once. Several inner samples for
each hidden state, logit-normal times and the overshoot are from arXiv 2512.12465.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from pathline.flow.paths import STRAIGHT, Path, interpolate
from pathline.flow.solvers import (
    Noise,
    State,
    Step,
    Stepped,
    euler,
    heun,
    integrate,
    last,
    midpoint,
)
from pathline.flow.times import DRAWS, uniform_grid
from pathline.objectives.flow import drop
from pathline.ranges import Depth, NotNegative, PositiveFloat, Range, Share, Width
from pathline.types import Batch, Call, Cond, Field, Objective, Output, Point

InnerTimes = Literal["uniform", "logit_normal"]
HEAD_STEPS: dict[str, Step] = {"midpoint": midpoint, "heun": heun, "euler": euler}


def loss(
    network,
    batch: Batch,
    rng: torch.Generator,
    draw,
    criterion,
    *,
    dropout: float,
    draws: int,
    steps: int,
    inner_times: InnerTimes,
    inner_shift: PositiveFloat = 1.0,
    patch: int = 1,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the backbone once, the head `draws` times; regress the velocity from noise to Y.

    patch: positions along a side that share an inner time, as the head samples them together; 0:
    all do. Terms read the inner path: x0, x1, xt, v and value are of y, `draws` rows for each
    image; t is the outer time, hidden has a row for each image.
    """
    cond = drop(batch.cond, batch.null, dropout, rng) if training else batch.cond
    # The outer point, moved with `steps` to where sampling evaluates the backbone.
    point: Point = _at_steps(draw(batch.x1, cond, rng), steps)
    # The inner flow leads from noise y0 to Y = x1 − x0, the velocity of the straight path.
    y1 = point.v.repeat(draws, 1, 1, 1)
    y0 = torch.randn(y1.shape, generator=rng, device=y1.device, dtype=y1.dtype)
    inner = partial(DRAWS[inner_times], rng=rng, shift=inner_shift)
    s = _inner(y1, inner, patch)  # n i j
    ys = torch.lerp(y0, y1, _spread(s, patch) if patch else s[:, None])
    out: Output = network(point.xt, point.t, cond, Call(y=ys, s=s))
    # Terms regress Y − y0, the velocity of the inner flow, in place of the outer one.
    labels = None if point.labels is None else point.labels.repeat(draws)
    inner_point = Point(y0, y1, point.t.repeat(draws), ys, y1 - y0, labels)
    return criterion(inner_point, out._replace(value=out.value.float()))


def _at_steps(point: Point, steps: int) -> Point:
    """The point at the beginning of its step, of so many equal ones; 0: unchanged."""
    if not steps:
        return point
    t = (point.t * steps).floor().clamp(max=steps - 1) / steps
    return point._replace(t=t, xt=interpolate(STRAIGHT, point.x0, point.x1, t))


def _inner(y: Tensor, times: Callable[[Tensor], Tensor], patch: int) -> Tensor:
    """An inner time for each group of positions that is sampled together."""
    tokens = y[:, 0, ::patch, ::patch] if patch else y[:, 0, :1, :1]
    return times(tokens.flatten()).view(tokens.shape).to(y.dtype)


def _spread(s: Tensor, patch: int) -> Tensor:
    """The times [n i j] at every position [n 1 h w]."""
    return s.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]


def field(network, cond: Cond) -> Field:
    """(y, t, x, s) -> the head's velocity at y and s, for transitions out of x at time t.

    The backbone runs when x or t is a new one. (x, t) alone gives the mean of Y: a velocity as of
    flow matching. Further arguments pass through any guidance, which so applies to the head's
    velocity, by the outer time.
    """
    # Each condition's field has its own cache, so that guidance does not evict the other's.
    cache: list[Any] = []  # x, t and the hidden states there

    def velocity(y: Tensor, t: float | Tensor, x: Tensor | None = None, s: float = 0.0) -> Tensor:
        times = t if isinstance(t, Tensor) else torch.full((len(y),), t, device=y.device)
        if x is None:
            return network(y, times, cond).value.to(y.dtype)
        hidden = cache[2] if cache and cache[0] is x and _same(cache[1], t) else None
        call = Call(hidden=hidden, y=y, s=times.new_full((1, 1, 1), s))
        out = network(x, times, cond, call)
        cache[:] = x, t, out.hidden
        return out.value.to(y.dtype)

    return velocity


def _same(before: float | Tensor, t: float | Tensor) -> bool:
    """Tensors are compared by identity: their values would synchronise the device."""
    return before is t or (isinstance(before, float) and before == t)


def step(
    field: Field,
    x: State,
    t: float,
    t_next: float,
    memory: Any,
    noise: Noise,
    _path: Path,
    *,
    head_steps: Annotated[int, Range(1, 1000)] = 4,
    head_solver: Literal["midpoint", "heun", "euler"] = "midpoint",
    overshoot: Share = 0.0,
) -> Stepped:
    """A transition: the head samples Y in inner steps, x goes the step's share of it.

    head_steps: of head_solver; euler underestimates the spread of Y. overshoot: 0 … 1, the share of
    the rest that x goes beyond t_next, which fresh noise then undoes. The field is
    (y, t, x, s) -> velocity of y.
    """
    if noise is None:
        raise ValueError(
            "sample.solver=transition needs fresh noise. Pass `integrate` a noise function."
        )

    def head(y: Tensor, s: float) -> Tensor:
        return field(y, t, x, s)

    # Sample Y = x1 − x0 by the head's own flow.
    y = last(integrate(head, noise(x), uniform_grid(head_steps), HEAD_STEPS[head_solver]))
    # Go part of it, to t_next or beyond.
    beyond = t_next + overshoot * (1 - t_next)
    x_next = x + (beyond - t) * y
    if beyond == t_next:
        return x_next, memory
    # Return to t_next with fresh noise of the variance that keeps the marginals.
    variance = (beyond - t_next) * (t_next + beyond - 2 * t_next * beyond)
    return (t_next * x_next + math.sqrt(variance) * noise(x)) / beyond, memory


def transition(
    path: Path,
    *,
    dropout: Share = 0.1,
    draws: Annotated[int, Range(1, 1000)] = 4,
    steps: NotNegative = 0,
    inner_times: InnerTimes = "uniform",
    inner_shift: PositiveFloat = 1.0,
    head: Literal["mlp", "transformer"] = "mlp",
    head_width: Width | None = None,
    head_depth: Depth = 3,
    head_group: NotNegative = 1,
) -> Objective:
    """Difference transition matching: sample with solver=transition.

    dropout: share of conditions replaced by the null. draws: inner samples for each hidden state.
    steps: train at the times of so many equal steps only; 0: at every time. inner_times,
    inner_shift: distribution of the inner times; a shift above 1 moves them to noise, where the
    head depends most on the backbone. The head: its width (null: half the backbone's, or the values
    of its token), depth, and how many tokens along a side it samples together, joined by an mlp,
    attending to one another in a transformer (0 there: all tokens). Raises ValueError for a path
    that is not straight.
    """
    # A step goes a share of Y = x1 − x0, which leads along the path only where it is straight.
    if path is not STRAIGHT:
        raise ValueError(
            "objective=transition is wrong because it needs the straight path. Set path=straight."
        )
    inner = {"inner_times": inner_times, "inner_shift": inner_shift}
    learn = partial(loss, dropout=dropout, draws=draws, steps=steps, **inner)
    head_settings = {"kind": head, "width": head_width, "depth": head_depth, "group": head_group}
    return Objective(learn, field, "v", answers="transition", head=head_settings)
