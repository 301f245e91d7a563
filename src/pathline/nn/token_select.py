"""Tokens that miss a stretch of blocks: chosen at random, left out, put back.

TREAD (arXiv 2501.04765) chooses anywhere, SPRINT (arXiv 2510.21986) in every group of 2x2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


class Route(NamedTuple):
    """Which tokens of which picture go through the stretch."""

    kept: Tensor  # [B K] their places, rising; K = 0: the stretch does not run
    skipped: Tensor | None = None  # [B] true where nothing of what went through is used

    def last(self, rows: int) -> "Route":
        """The same for the last of its pictures. Raises ValueError if it has fewer."""
        if rows > len(self.kept):
            raise ValueError(
                f"A route was drawn for {len(self.kept)} pictures and {rows} are to take it: "
                "a loss runs its network on rows of its batch, or on the last of them."
            )
        skipped = None if self.skipped is None else self.skipped[-rows:]
        return Route(self.kept[-rows:], skipped)


def anywhere(rows: int, count: int, share: float, rng: torch.Generator) -> Int[Tensor, "{rows} k"]:
    """Places of `count` tokens but for a `share` of them (at least one stays), for each row."""
    keep = max(1, round(count * (1 - share)))
    noise = torch.rand(rows, count, generator=rng, device=rng.device)
    return noise.argsort(dim=1)[:, :keep].sort(dim=1).values


def in_groups(
    rows: int, grid: tuple[int, int], keep: int, rng: torch.Generator
) -> Int[Tensor, "{rows} k"]:
    """Places of `keep` of the four tokens of every 2x2 group, for each row.

    grid: rows and columns of tokens. Where they are odd, the last groups have two tokens or one,
    and keep as many as they have, if less.
    """
    (high, odd_row), (wide, odd_column) = divmod(grid[0], 2), divmod(grid[1], 2)
    nowhere = grid[0] * grid[1]
    places = torch.arange(nowhere, device=rng.device).view(grid)
    places = F.pad(places, (0, odd_column, 0, odd_row), value=nowhere)
    halves = places.view(high + odd_row, 2, wide + odd_column, 2).transpose(1, 2)
    groups = halves.reshape(1, -1, 4).expand(rows, -1, -1)
    noise = torch.rand(groups.shape, generator=rng, device=rng.device)
    chosen = (noise + (groups == nowhere)).argsort(dim=2)[..., :keep]
    pairs = high * odd_column + wide * odd_row
    found = high * wide * keep + pairs * min(keep, 2) + odd_row * odd_column
    return groups.gather(2, chosen).flatten(1).sort(dim=1).values[:, :found]


def whole(kept: Int[Tensor, "b k"], count: int, total: int) -> Int[Tensor, "b m"]:
    """`kept` and everything after the `count` picture tokens, up to `total`: text stays."""
    rest = torch.arange(count, total, device=kept.device)
    return torch.cat([kept, rest.expand(len(kept), -1)], dim=1)


def take(x: Float[Tensor, "b l d"], kept: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens at these places."""
    return x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))


def put(
    x: Float[Tensor, "b l d"], kept: Int[Tensor, "b k"], y: Float[Tensor, "b k d"]
) -> Float[Tensor, "b l d"]:
    """x with y at these places."""
    return x.scatter(1, kept[..., None].expand(-1, -1, x.shape[2]), y.to(x.dtype))


def turns(table: Float[Tensor, "2 l e"], kept: Int[Tensor, "b k"]) -> Float[Tensor, "2 b k e"]:
    """The rotary table of these places, by row."""
    return table[:, kept]


def masks(mask: Bool[Tensor, "b 1 1 l"], kept: Int[Tensor, "b k"]) -> Bool[Tensor, "b 1 1 k"]:
    """The key mask of these places."""
    return mask.gather(3, kept[:, None, None, :])
