"""Choose tokens at random, take them out of a sequence, put them back.

TREAD (arXiv 2501.04765) chooses among all tokens, SPRINT (arXiv 2510.21986) in groups of 2x2.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def sample_tokens(
    rows: int, count: int, share: float, rng: torch.Generator
) -> Int[Tensor, "{rows} k"]:
    """Indices of `count` tokens without a `share` of them (at least 1 is left), for each row."""
    keep = max(1, round(count * (1 - share)))
    noise = torch.rand(rows, count, generator=rng, device=rng.device)
    return noise.argsort(dim=1)[:, :keep].sort(dim=1).values


def sample_in_groups(
    rows: int, grid: tuple[int, int], keep: int, rng: torch.Generator
) -> Int[Tensor, "{rows} k"]:
    """Indices of `keep` of the four tokens of every 2x2 group, for each row.

    grid: rows and columns of tokens. Where they are odd, the last groups have two tokens or one;
    all of these are chosen if they are fewer than `keep`.
    """
    # Tokens in groups of 2x2; odd sides are padded by an index outside of the grid.
    (high, odd_row), (wide, odd_column) = divmod(grid[0], 2), divmod(grid[1], 2)
    outside = grid[0] * grid[1]
    indices = torch.arange(outside, device=rng.device).view(grid)
    indices = F.pad(indices, (0, odd_column, 0, odd_row), value=outside)
    halves = indices.view(high + odd_row, 2, wide + odd_column, 2).transpose(1, 2)
    groups = halves.reshape(1, -1, 4).expand(rows, -1, -1)
    # Random order within a group; padding comes last, as noise is below 1.
    noise = torch.rand(groups.shape, generator=rng, device=rng.device)
    chosen = (noise + (groups == outside)).argsort(dim=2)[..., :keep]
    # Groups at odd edges hold fewer: sorting moves their padding to the end, where it is cut.
    pairs = high * odd_column + wide * odd_row
    count = high * wide * keep + pairs * min(keep, 2) + odd_row * odd_column
    return groups.gather(2, chosen).flatten(1).sort(dim=1).values[:, :count]


def with_text(indices: Int[Tensor, "b k"], count: int, total: int) -> Int[Tensor, "b m"]:
    """The indices, and those of all text tokens, which are after the `count` image tokens."""
    rest = torch.arange(count, total, device=indices.device)
    return torch.cat([indices, rest.expand(len(indices), -1)], dim=1)


def take(x: Float[Tensor, "b l d"], indices: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens of these indices."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def put(
    x: Float[Tensor, "b l d"], indices: Int[Tensor, "b k"], y: Float[Tensor, "b k d"]
) -> Float[Tensor, "b l d"]:
    """x with y in place of the tokens of these indices."""
    return x.scatter(1, indices[..., None].expand(-1, -1, x.shape[2]), y.to(x.dtype))


def rope_of(table: Float[Tensor, "2 l e"], indices: Int[Tensor, "b k"]) -> Float[Tensor, "2 b k e"]:
    """The rotary table of these tokens, by row."""
    return table[:, indices]


def mask_of(mask: Bool[Tensor, "b 1 1 l"], indices: Int[Tensor, "b k"]) -> Bool[Tensor, "b 1 1 k"]:
    """The key mask of these tokens."""
    return mask.gather(3, indices[:, None, None, :])
