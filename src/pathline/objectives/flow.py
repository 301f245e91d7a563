"""Flow matching (arXiv 2210.02747, 2209.03003): regress the velocity from noise to data."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pathline.flow.paths import Path, velocity_from_x1
from pathline.types import Batch, Cond, Field, Objective, Output, Point


def drop(cond: Cond, null: Cond, share: float, rng: torch.Generator) -> Cond:
    """cond with each row replaced by the null condition with probability `share`."""
    if share == 0 or all(value is None for value in cond):
        return cond
    device = rng.device
    rows = next(len(value) for value in cond if value is not None)
    dropped = torch.rand(rows, generator=rng, device=device) < share
    return Cond(
        *(_replace_rows(value, blank, dropped) for value, blank in zip(cond, null, strict=True))
    )


def _replace_rows(value: Tensor | None, blank: Tensor | None, rows: Tensor) -> Tensor | None:
    if value is None or blank is None:
        return value
    blank = blank.to(value)
    if value.dim() > 1:  # padded to the longer of the two; the mask says what counts
        longest = max(value.shape[1], blank.shape[1])
        value, blank = _padded(value, longest), _padded(blank, longest)
    return torch.where(rows.view(-1, *[1] * (value.dim() - 1)), blank, value)


def _padded(value: Tensor, length: int) -> Tensor:
    missing = length - value.shape[1]
    gap = value.new_zeros(len(value), missing, *value.shape[2:])
    return torch.cat([value, gap], dim=1) if missing else value


def _read(value: Tensor, xt: Tensor, t: Tensor | float, path: Path, prediction: str, floor: float):
    return value if prediction == "v" else velocity_from_x1(path, value, xt, t, floor)


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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sample the path, predict, regress. draw: (x1, cond, rng) -> Point. criterion: composed terms.

    With x1-prediction the network's picture and the true one are both read as velocities with the
    same floored denominator (JiT, arXiv 2511.13720): times weigh as they do in velocity loss.
    """
    cond = drop(batch.cond, batch.null, dropout, rng)
    point: Point = draw(batch.x1, cond, rng)
    out: Output = network(point.xt, point.t, cond)
    v = _read(out.value.float(), point.xt, point.t, path, prediction, floor)
    target = (
        point.v
        if prediction == "v"
        else _read(point.x1, point.xt, point.t, path, prediction, floor)
    )
    return criterion(point._replace(v=target), out._replace(value=v))


def field(network, cond: Cond, *, path: Path, prediction: str, floor: float) -> Field:
    """What the network learnt, read as a velocity field of (x, t)."""

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        times = t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)
        value = network(x, times, cond).value.to(x.dtype)
        return _read(value, x, times.to(x.dtype), path, prediction, floor)

    return velocity


def flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: float = 0.1,
    floor: float = 0.05,
) -> Objective:
    """Flow matching. dropout: share of conditions replaced by the null; floor: least 1 − t (or σ)
    by which an x1-prediction is divided."""
    ways = {"path": path, "prediction": prediction, "floor": floor}
    return Objective(partial(loss, dropout=dropout, **ways), partial(field, **ways), prediction)
