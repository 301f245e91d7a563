"""How time and labels steer every block: adaptive scale, shift and gate, all zero at the start."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Own(nn.Module):
    """A block's own projection (DiT's adaLN-zero)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, parts * width)
        self.parts = parts

    def forward(self, signal: Float[Tensor, "b d"]) -> tuple[Tensor, ...]:
        return cut(self.linear(signal), self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class LowRank(nn.Module):
    """A block's own projection through a narrow middle."""

    def __init__(self, width: int, parts: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, parts * width)
        self.parts = parts

    def forward(self, signal: Float[Tensor, "b d"]) -> tuple[Tensor, ...]:
        return cut(self.up(self.down(signal)), self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class Offset(nn.Module):
    """A block's own table, added to a projection that all blocks share (PixArt-α)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(parts * width))
        self.parts = parts

    def forward(self, signal: Float[Tensor, "b e"]) -> tuple[Tensor, ...]:
        return cut(signal + self.table, self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.table)


def modulation(
    kind: Literal["block", "shared", "lowrank"], width: int, parts: int, rank: int
) -> nn.Module:
    """What gives a block its `parts` vectors from the signal."""
    if kind == "shared":
        return Offset(width, parts)
    return LowRank(width, parts, rank) if kind == "lowrank" else Own(width, parts)


def cut(x: Float[Tensor, "b e"], parts: int) -> tuple[Float[Tensor, "b 1 d"], ...]:
    """The vectors side by side in x, each ready to meet tokens."""
    return x.view(len(x), parts, 1, -1).unbind(1)
