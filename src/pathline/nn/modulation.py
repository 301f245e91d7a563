"""Adaptive layer norm: scale, shift and gate of a block by the conditioning vector; 0 at first."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BlockModulation(nn.Module):
    """A projection for each block (DiT's adaLN-zero)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, parts * width)
        self.parts = parts

    def forward(self, conditioning: Float[Tensor, "b d"]) -> tuple[Tensor, ...]:
        return split(self.linear(conditioning), self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class LowRankModulation(nn.Module):
    """A low-rank projection for each block."""

    def __init__(self, width: int, parts: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, parts * width)
        self.parts = parts

    def forward(self, conditioning: Float[Tensor, "b d"]) -> tuple[Tensor, ...]:
        return split(self.up(self.down(conditioning)), self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class SharedModulation(nn.Module):
    """A table for each block, added to a projection that all blocks share (PixArt-α)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(parts * width))
        self.parts = parts

    def forward(self, conditioning: Float[Tensor, "b e"]) -> tuple[Tensor, ...]:
        return split(conditioning + self.table, self.parts)

    def zero(self) -> None:
        nn.init.zeros_(self.table)


def build_modulation(
    kind: Literal["block", "shared", "lowrank"], width: int, parts: int, rank: int
) -> nn.Module:
    """The module that computes a block's `parts` vectors from the conditioning vector."""
    if kind == "shared":
        return SharedModulation(width, parts)
    return (
        LowRankModulation(width, parts, rank)
        if kind == "lowrank"
        else BlockModulation(width, parts)
    )


def split(x: Float[Tensor, "b e"], parts: int) -> tuple[Float[Tensor, "b 1 d"], ...]:
    """The vectors that are concatenated in x, each with an axis for tokens."""
    return x.view(len(x), parts, 1, -1).unbind(1)
