"""Sinusoids of time, and sin-cos and rotary tables of positions.

All are computed in float32 or float64, never under autocast.
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
    shrink: float = 1.0,
    device: torch.device | None = None,
) -> Float[Tensor, "l d"]:
    """The fixed table of DiT, tokens row by row: half of the width is for the column, half for
    the row.

    Each half is [sin, cos] at width/4 frequencies. shrink: positions are divided by it. Raises
    ValueError if 4 does not divide width. From MAE (facebookresearch/mae:util/pos_embed.py).
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that 4 divides, got {width}.")
    row, column = _grid(rows, columns, device)
    halves = [_angles(position / shrink, width // 2, period) for position in (column, row)]
    return torch.cat([part for a in halves for part in (a.sin(), a.cos())], dim=1).float()


def rotary(rows: int, columns: int, width: int, *, theta: float = 256.0) -> Float[Tensor, "2 l d"]:
    """Tables (cosine, signed sine) that rotate a head of `width` by its row and column.

    Entry i is paired with entry i + width/2 (half-split pairs; weights for interleaved pairs need
    their q and k rows permuted): the first width/4 pairs by the row, the others by the column.
    Raises ValueError if 4 does not divide width. RoPE: arXiv 2104.09864.
    """
    if width % 4:
        raise ValueError(f"rotary positions need heads of a width that 4 divides, got {width}.")
    angles = [_angles(position, width // 2, theta) for position in _grid(rows, columns)]
    return _rope_table(torch.cat(angles, dim=1))


def axes(width: int) -> tuple[int, int, int]:
    """Widths of a head's parts for text position, row and column: about 1/4, 3/8, 3/8.

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
    shrink: float = 1.0,
    ntk: float = 1.0,
    device: torch.device | None = None,
) -> Float[Tensor, "2 l d"]:
    """`rotary` with a third axis, for text, on which the whole image is at 0.

    Pairs: text, then row, then column, as many as `axes` returns. For images larger than those
    trained on: shrink divides rows and columns (LightningDiT); ntk divides the lowest frequency
    by itself, the highest by 1, and those between in geometric steps (NTK-aware scaling).
    """
    text, side, _ = axes(width)
    # With the exponent side / (side − 2) the lowest frequency is divided by exactly ntk.
    base = theta * ntk ** (side / max(side - 2, 1))
    row, column = (position / shrink for position in _grid(rows, columns, device))
    parts = ((row * 0, text, theta), (row, side, base), (column, side, base))
    return _rope_table(torch.cat([_angles(*part) for part in parts], dim=1))


def rotary_text(
    length: int, width: int, *, theta: float = 256.0, device: torch.device | None = None
) -> Float[Tensor, "2 l d"]:
    """Words are at 1, 2, … of the text axis, in row 0 and column 0, so padding changes nothing."""
    text, side, _ = axes(width)
    word = torch.arange(1, length + 1, dtype=_wide(device), device=device)
    parts = ((word, text), (word * 0, side), (word * 0, side))
    return _rope_table(torch.cat([_angles(*part, theta) for part in parts], dim=1))


def size_ratio(rows: int, columns: int, trained: tuple[int, int]) -> float:
    """Geometric mean of the ratios of both sides to those trained on; at least 1."""
    return max(1.0, math.sqrt(rows * columns / (trained[0] * trained[1])))


def cached_table(
    make: Callable[..., Tensor], *sizes: int, device: torch.device, **options: float
) -> Tensor:
    """make(*sizes, device, **options), computed once: later calls don't wait for the device.

    Under compilation it is a part of the graph, and inside a torch.func transformation it is
    computed each time: a tensor created there must not be used outside.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return make(*sizes, device=device, **options)
    return _cached(make, sizes, device, tuple(options.items()))


@lru_cache(maxsize=128)
def _cached(make: Any, sizes: tuple, device: torch.device, options: tuple) -> Tensor:
    with torch.inference_mode(False):  # training can't use tensors of inference mode
        return make(*sizes, device=device, **dict(options))


def _angles(position: Tensor, width: int, theta: float) -> Float[Tensor, "l k"]:
    """Positions times width/2 frequencies, which fall from 1 to almost 1/theta."""
    half = width // 2
    steps = torch.arange(half, dtype=position.dtype, device=position.device)
    return torch.outer(position, theta ** (-steps / half))


def _rope_table(angles: Float[Tensor, "l k"]) -> Float[Tensor, "2 l d"]:
    # For half-split pairs: the first half of a head takes −sin, the second +sin.
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cosine, cosine], 1), torch.cat([-sine, sine], 1)]).float()


def rotate(
    x: Float[Tensor, "b l *heads d"], table: Float[Tensor, "2 *rows l d"]
) -> Float[Tensor, "b l *heads d"]:
    """Each token's heads rotated by its angles: x·cos + (x with swapped halves)·signed sine.

    table: the same for all rows of x, or one for each.
    """
    cosine, sine = table.view(*table.shape[:-1], *[1] * (x.dim() - 3), x.shape[-1])
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)


def extend_rope(table: Float[Tensor, "2 l d"], count: int) -> Float[Tensor, "2 m d"]:
    """The table with `count` more tokens that are not rotated, for text after an image."""
    cosine, sine = table.new_ones(count, table.shape[-1]), table.new_zeros(count, table.shape[-1])
    return torch.cat([table, torch.stack([cosine, sine])], dim=1)


def _grid(rows: int, columns: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Row and column of every token, row by row."""
    options = {"dtype": _wide(device), "device": device}
    row, column = torch.meshgrid(
        torch.arange(rows, **options), torch.arange(columns, **options), indexing="ij"
    )
    return row.flatten(), column.flatten()


def _wide(device: torch.device | None) -> torch.dtype:
    """The dtype of angles: float64, but float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device is not None and device.type == "mps" else torch.float64


class Table(nn.Module):
    """A fixed tensor on its network's device, always float32 and not in checkpoints."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def _apply(self, fn, recurse: bool = True):
        before = self.value
        super()._apply(fn, recurse)
        if self.value.dtype != before.dtype:  # network.bfloat16() must not round positions
            self.value = before.to(self.value.device)
        return self

    def forward(self) -> Tensor:
        return self.value
