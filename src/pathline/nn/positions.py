"""Where a token stands in the picture and when: sinusoids of time, sin-cos and rotary tables.

Everything is float32 or wider, and never under autocast.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def time_sinusoid(
    t: Float[Tensor, " b"], width: int = 256, *, period: float = 1e4
) -> Float[Tensor, "b d"]:
    """Cosines, then sines, of t at width/2 frequencies falling from 1 to almost 1/period.

    From DiT (facebookresearch/DiT:models.py:TimestepEmbedder.timestep_embedding).
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(steps * (-math.log(period) / half))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sincos(
    rows: int,
    columns: int,
    width: int,
    *,
    period: float = 1e4,
    squeeze: float = 1.0,
    device: torch.device | None = None,
) -> Float[Tensor, "l d"]:
    """The fixed table of DiT, tokens row by row: half the width tells the column, half the row.

    Each half is [sin, cos] at width/4 frequencies. squeeze: places are divided by it. Raises
    ValueError if 4 does not divide width. From MAE (facebookresearch/mae:util/pos_embed.py).
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that 4 divides, got {width}.")
    row, column = _grid(rows, columns, device)
    halves = [_angles(place / squeeze, width // 2, period) for place in (column, row)]
    return torch.cat([part for a in halves for part in (a.sin(), a.cos())], dim=1).float()


def rotary(rows: int, columns: int, width: int, *, theta: float = 256.0) -> Float[Tensor, "2 l d"]:
    """Tables (cosine, signed sine) that turn a head of `width` by its row and column.

    Entry i turns with entry i + width/2 (half-split pairs; weights made for interleaved pairs need
    their q and k rows permuted): the first width/4 pairs by the row, the others by the column.
    Raises ValueError if 4 does not divide width. RoPE: arXiv 2104.09864.
    """
    if width % 4:
        raise ValueError(f"rotary positions need heads of a width that 4 divides, got {width}.")
    angles = [_angles(place, width // 2, theta) for place in _grid(rows, columns)]
    return _turning(torch.cat(angles, dim=1))


def axes(width: int) -> tuple[int, int, int]:
    """How a head of `width` is shared among text place, row and column: about 1/4, 3/8, 3/8.

    Raises ValueError if width is odd or less than 6.
    """
    if width % 2 or width < 6:
        raise ValueError(
            f"rotary positions on 3 axes need heads of an even width of at least 6, got {width}."
        )
    side = 2 * max(1, 3 * width // 16)
    return width - 2 * side, side, side


def rotary_picture(
    rows: int,
    columns: int,
    width: int,
    *,
    theta: float = 256.0,
    squeeze: float = 1.0,
    spread: float = 1.0,
    device: torch.device | None = None,
) -> Float[Tensor, "2 l d"]:
    """`rotary` with a third axis, for text, on which the whole picture stands at 0.

    Pairs: text, then row, then column, as many as `axes` says. For pictures larger than those
    learnt from: squeeze divides rows and columns (LightningDiT); spread slows the slow frequencies
    so that the slowest turns as if divided by it and the fastest as ever (NTK-aware scaling).
    """
    text, side, _ = axes(width)
    base = theta * spread ** (side / max(side - 2, 1))
    row, column = (place / squeeze for place in _grid(rows, columns, device))
    places = ((row * 0, text, theta), (row, side, base), (column, side, base))
    return _turning(torch.cat([_angles(*place) for place in places], dim=1))


def rotary_text(
    length: int, width: int, *, theta: float = 256.0, device: torch.device | None = None
) -> Float[Tensor, "2 l d"]:
    """Words stand at 1, 2, … of the text axis and in row 0, column 0: padding moves nothing."""
    text, side, _ = axes(width)
    place = torch.arange(1, length + 1, dtype=_wide(device), device=device)
    places = ((place, text), (place * 0, side), (place * 0, side))
    return _turning(torch.cat([_angles(*pair, theta) for pair in places], dim=1))


def growth(rows: int, columns: int, known: tuple[int, int]) -> float:
    """How much longer the sides are than those of the known size, on average; at least 1."""
    return max(1.0, math.sqrt(rows * columns / (known[0] * known[1])))


def once(
    make: Callable[..., Tensor], *sizes: int, device: torch.device, **options: float
) -> Tensor:
    """make(*sizes, device, **options), computed once and kept: the device is never waited for.

    In a graph under compilation it is a part of the graph, and inside a torch.func transformation
    it is computed each time: what is made there must not be used outside.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return make(*sizes, device=device, **options)
    return _kept(make, sizes, device, tuple(options.items()))


@lru_cache(maxsize=128)
def _kept(make: Any, sizes: tuple, device: torch.device, options: tuple) -> Tensor:
    with torch.inference_mode(False):  # training could not use what inference mode makes
        return make(*sizes, device=device, **dict(options))


def _angles(place: Tensor, width: int, theta: float) -> Float[Tensor, "l k"]:
    """Places times width/2 frequencies falling from 1 to almost 1/theta."""
    half = width // 2
    steps = torch.arange(half, dtype=place.dtype, device=place.device)
    return torch.outer(place, theta ** (-steps / half))


def _turning(angles: Float[Tensor, "l k"]) -> Float[Tensor, "2 l d"]:
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cosine, cosine], 1), torch.cat([-sine, sine], 1)]).float()


def rotate(
    x: Float[Tensor, "b l *heads d"], table: Float[Tensor, "2 *rows l d"]
) -> Float[Tensor, "b l *heads d"]:
    """Every token's heads turned by its own angles: x·cos + swapped halves of x·signed sine.

    table: the same for all rows of x, or one for each.
    """
    cosine, sine = table.view(*table.shape[:-1], *[1] * (x.dim() - 3), x.shape[-1])
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)


def unturned(table: Float[Tensor, "2 l d"], count: int) -> Float[Tensor, "2 m d"]:
    """The table followed by `count` tokens that are not turned (text beside a picture)."""
    cosine, sine = table.new_ones(count, table.shape[-1]), table.new_zeros(count, table.shape[-1])
    return torch.cat([table, torch.stack([cosine, sine])], dim=1)


def _grid(rows: int, columns: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Row and column of every token, row by row."""
    places = {"dtype": _wide(device), "device": device}
    row, column = torch.meshgrid(
        torch.arange(rows, **places), torch.arange(columns, **places), indexing="ij"
    )
    return row.flatten(), column.flatten()


def _wide(device: torch.device | None) -> torch.dtype:
    """The precision angles are computed in; Apple's GPUs have no float64."""
    return torch.float32 if device is not None and device.type == "mps" else torch.float64


class Table(nn.Module):
    """A fixed tensor that follows its network's device but stays float32 and out of checkpoints."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def _apply(self, fn, recurse: bool = True):
        kept = self.value
        super()._apply(fn, recurse)
        if self.value.dtype != kept.dtype:  # network.bfloat16() must not round positions
            self.value = kept.to(self.value.device)
        return self

    def forward(self) -> Tensor:
        return self.value
