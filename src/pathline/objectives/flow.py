"""Flow matching (arXiv 2210.02747, 2209.03003): regress the velocity from noise to data."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pathline.flow.paths import Path, State, Time, velocity_from_x1
from pathline.ranges import Share, ShareAboveZero
from pathline.types import Batch, Cond, Field, Objective, Output, Point


def drop(
    cond: Cond, null: Cond, share: float, rng: torch.Generator, pooled: float | None = None
) -> Cond:
    """cond with each row replaced by the null condition with probability `share`.

    pooled: the share of pooled vectors, which are then dropped independently of the rest; None:
    with the rest. Raises ValueError for a null that lacks what cond has: it would never be dropped.
    """
    if not (share or pooled) or all(value is None for value in cond):
        return cond
    cond, null = _masked(cond, null)
    # A field without its null would stay conditional in the rows that are dropped.
    for name, value, blank in zip(Cond._fields, cond, null, strict=True):
        if value is not None and blank is None:
            raise ValueError(
                f"The condition has {name}, but the null has no {name} to replace it by."
            )
    # One random choice for all fields, but for pooled vectors where they have a share of their own.
    rows = next(len(value) for value in cond if value is not None)
    dropped = _random_rows(rows, share, rng)
    dropped_pooled = dropped if pooled is None else _random_rows(rows, pooled, rng)
    return Cond(
        *(
            _replace_rows(value, blank, dropped_pooled if name == "pooled" else dropped)
            for name, value, blank in zip(Cond._fields, cond, null, strict=True)
        )
    )


def _masked(cond: Cond, null: Cond) -> tuple[Cond, Cond]:
    """With masks where lengths will differ: an absent mask means that every token is text."""
    if cond.tokens is None or null.tokens is None:
        return cond, null
    if cond.mask is None and null.mask is None and cond.tokens.shape[1] == null.tokens.shape[1]:
        return cond, null
    return _with_mask(cond, cond.tokens), _with_mask(null, null.tokens)


def _with_mask(cond: Cond, tokens: Tensor) -> Cond:
    if cond.mask is not None:
        return cond
    return cond._replace(mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def _random_rows(rows: int, share: float, rng: torch.Generator) -> Tensor:
    return torch.rand(rows, generator=rng, device=rng.device) < share


def padded(value: Tensor, length: int) -> Tensor:
    """[b l …] filled up with zeros to a length of at least l."""
    missing = length - value.shape[1]
    gap = value.new_zeros(len(value), missing, *value.shape[2:])
    return torch.cat([value, gap], dim=1) if missing else value


def _replace_rows(value: Tensor | None, blank: Tensor | None, rows: Tensor) -> Tensor | None:
    if value is None or blank is None:
        return value
    blank = blank.to(value)
    if value.dim() > 1:  # padded to the longer of the two; the mask marks the text
        longest = max(value.shape[1], blank.shape[1])
        value, blank = padded(value, longest), padded(blank, longest)
    return torch.where(rows.view(-1, *[1] * (value.dim() - 1)), blank, value)


def read(value: State, xt: State, t: Time, path: Path, prediction: str, floor: float) -> State:
    """The output of a network of this prediction at (xt, t), as a velocity in a loss.

    floor: least σ by which an x1-prediction is divided, or times near 1 would outweigh all others.
    """
    return value if prediction == "v" else velocity_from_x1(path, value, xt, t, floor)


def read_exactly(value: State, x: State, t: Time, path: Path, prediction: str) -> State:
    """The same for sampling, without a floor: a step goes at most to the x1 predicted.

    With the floor of the loss, steps where 1 − t is below it would leave noise behind.
    Raises ValueError at t = 1, where an x1-prediction has no velocity.
    """
    if prediction == "v":
        return value
    # Times in a tensor are not compared with 1: reading them would synchronise the device.
    if isinstance(t, Tensor):
        return velocity_from_x1(path, value, x, t.to(x.dtype))
    if t >= 1:
        raise ValueError(
            "An x1-prediction has no velocity at t = 1: end the walk before it and take the x1 "
            "predicted there (flow.walks.landed)."
        )
    return velocity_from_x1(path, value, x, t)


def loss(
    network,
    batch: Batch,
    rng: torch.Generator,
    draw,
    criterion,
    *,
    path,
    prediction,
    dropout,
    floor,
    dropout_pooled=None,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sample the path, predict, regress. draw: (x1, cond, rng) -> Point. criterion: composed terms.

    With x1-prediction the predicted and the true x1 are both read as velocities with the same
    floored denominator (JiT, arXiv 2511.13720), so that times weigh as in a velocity loss.
    """
    cond = batch.cond
    # Dropped before the point is made: a coupling by class must pair by what the network will see.
    if training:
        cond = drop(cond, batch.null, dropout, rng, dropout_pooled)
    point: Point = draw(batch.x1, cond, rng)
    out: Output = network(point.xt, point.t, cond)
    # Terms compare velocities whatever the network predicts, in float32, as errors are squared.
    v = read(out.value.float(), point.xt, point.t, path, prediction, floor)
    target = (
        point.v if prediction == "v" else read(point.x1, point.xt, point.t, path, prediction, floor)
    )
    return criterion(point._replace(v=target), out._replace(value=v))


def field(network, cond: Cond, *, path: Path, prediction: str) -> Field:
    """The network's prediction as a velocity field of (x, t)."""

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        times = t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)
        value = network(x, times, cond).value.to(x.dtype)
        return read_exactly(value, x, t, path, prediction)

    return velocity


def flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: Share = 0.1,
    dropout_pooled: Share | None = None,
    floor: ShareAboveZero = 0.05,
) -> Objective:
    """Flow matching. dropout: share of conditions replaced by the null; floor: least 1 − t (or σ)
    by which an x1-prediction is divided. dropout_pooled: share of pooled vectors replaced
    independently, for two encoders (FLUX.1: .447 each, .2 of both); null: together."""
    reading = {"path": path, "prediction": prediction}
    learn = partial(loss, **reading, floor=floor, dropout=dropout, dropout_pooled=dropout_pooled)
    return Objective(learn, partial(field, **reading), prediction)
