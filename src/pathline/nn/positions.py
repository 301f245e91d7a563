"""Where a token stands in the picture and when: sinusoids of time, sin-cos and rotary tables.

Everything is computed in float32 and never under autocast.
"""

import math

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


def sincos(rows: int, columns: int, width: int, *, period: float = 1e4) -> Float[Tensor, "l d"]:
    """The fixed table of DiT, tokens row by row: half the width tells the column, half the row.

    Each half is [sin, cos] at width/4 frequencies. Raises ValueError if 4 does not divide width.
    From MAE (facebookresearch/mae:util/pos_embed.py).
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width that 4 divides, got {width}.")
    row, column = _grid(rows, columns)
    frequencies = period ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    halves = [torch.outer(place, frequencies) for place in (column, row)]
    return torch.cat([part for a in halves for part in (a.sin(), a.cos())], dim=1).float()


def rotary(rows: int, columns: int, width: int, *, theta: float = 256.0) -> Float[Tensor, "2 l d"]:
    """Tables (cosine, signed sine) that turn a head of `width` by its row and column.

    Entry i turns with entry i + width/2 (half-split pairs; weights made for interleaved pairs need
    their q and k rows permuted): the first width/4 pairs by the row, the others by the column.
    Raises ValueError if 4 does not divide width. RoPE: arXiv 2104.09864.
    """
    if width % 4:
        raise ValueError(f"rotary positions need heads of a width that 4 divides, got {width}.")
    frequencies = theta ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.cat([torch.outer(place, frequencies) for place in _grid(rows, columns)], dim=1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cosine, cosine], 1), torch.cat([-sine, sine], 1)]).float()


def rotate(
    x: Float[Tensor, "b l *heads d"], table: Float[Tensor, "2 l d"]
) -> Float[Tensor, "b l *heads d"]:
    """Every token's heads turned by its own angles: x·cos + swapped halves of x·signed sine."""
    cosine, sine = table.view(2, x.shape[1], *[1] * (x.dim() - 3), x.shape[-1])
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)


def unturned(table: Float[Tensor, "2 l d"], count: int) -> Float[Tensor, "2 m d"]:
    """The table followed by `count` tokens that are not turned (text beside a picture)."""
    cosine, sine = table.new_ones(count, table.shape[-1]), table.new_zeros(count, table.shape[-1])
    return torch.cat([table, torch.stack([cosine, sine])], dim=1)


def _grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column of every token, row by row."""
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    return row.flatten(), column.flatten()


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
