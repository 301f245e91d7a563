"""Blocks of a backbone that some tokens skip in training: TREAD and SPRINT.

A backbone has them if its shape is a RouteShape whose route is not none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pathline.nn import token_select as tokens_of
from pathline.ranges import Positive, ShareBelowOne
from pathline.types import Route

Routing = Literal["none", "tread", "sprint"]
SHARES = {"tread": 0.5, "sprint": 0.75}  # of tokens that skip, where route_share is null
QUARTERS = (0.0, 0.25, 0.5, 0.75)  # of a group of 2x2


@dataclass(frozen=True)
class RouteShape:
    """Settings of a route: tokens that skip the middle blocks in training."""

    route: Routing = "none"  # in training; tread passes tokens around, sprint joins them again
    route_share: ShareBelowOne | None = None  # share of tokens left out; null: 0.5, for sprint 0.75
    route_before: Positive = 2  # first blocks, which every token passes
    route_after: Positive = 2  # last blocks, which every token passes
    # Of sprint: share of images whose join gets nothing from the route.
    path_drop: ShareBelowOne = 0.05


class Fuse(nn.Module):
    """SPRINT's join of the tokens before the routed blocks with those after them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(width))  # for tokens that skipped the routed blocks
        self.linear = nn.Linear(2 * width, width)

    def forward(
        self,
        before: Float[Tensor, "b l d"],
        after: Float[Tensor, "b k d"],
        indices: Tensor | None = None,
        skipped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """after: of the tokens of these indices, or of all tokens if there are none."""
        if indices is not None:
            after = tokens_of.put(self.mask.to(before.dtype).expand_as(before), indices, after)
        if skipped is not None:
            after = torch.where(skipped[:, None, None], self.mask.to(after.dtype), after)
        return self.linear(torch.cat([before, after], dim=2)).to(before.dtype)


def routed_blocks(shape: Any) -> range:
    """The blocks, from 0, that tokens may skip; without a route an empty range at the end."""
    if shape.route == "none":
        return range(shape.depth, shape.depth)
    return range(shape.route_before, shape.depth - shape.route_after)


def check_route(shape: Any, feature_layer: int = 0) -> None:
    """Raises ValueError for a route that this shape cannot have.

    feature_layer: the block, from 1, whose tokens loss terms read; 0: the last.
    """
    if shape.route == "none":
        return
    routed, share = routed_blocks(shape), _share(shape)
    if min(shape.route_before, shape.route_after, len(routed)) < 1:
        smallest = " Here: backbone.route_before=1 backbone.route_after=1."
        raise ValueError(
            f"Of {shape.depth} blocks {shape.route_before} are before the route and "
            f"{shape.route_after} after it. Set backbone.route_before, route_after and depth so "
            f"that 1 or more are before, in and after it.{smallest if shape.depth > 2 else ''}"
        )
    if shape.route == "sprint" and share not in QUARTERS:
        raise ValueError(
            f"backbone.route_share={share} is wrong because sprint chooses tokens in groups of "
            "2x2. Set 0.75, 0.5, 0.25 or 0, or backbone.route=tread."
        )
    # A term that reads a routed block would get tokens of some positions only.
    if routed.start < feature_layer <= routed.stop:
        raise ValueError(
            f"backbone.feature_layer={feature_layer} is wrong because some tokens skip blocks "
            f"{routed.start + 1} to {routed.stop}. Set {routed.start} or less, {routed.stop + 1} "
            "or more, or 0."
        )


def sample_route(shape: Any, grid: tuple[int, int], rows: int, rng: torch.Generator) -> Route:
    """A route for this many images of grid = (rows, columns) tokens."""
    share = _share(shape)
    if shape.route == "tread":
        return Route(tokens_of.sample_tokens(rows, grid[0] * grid[1], share, rng))
    indices = tokens_of.sample_in_groups(rows, grid, round(4 * (1 - share)), rng)
    if not shape.path_drop:
        return Route(indices)
    return Route(indices, torch.rand(rows, generator=rng, device=rng.device) < shape.path_drop)


def route_sampler(backbone: nn.Module) -> Callable[[Tensor, torch.Generator], Route] | None:
    """(x, rng) -> a route of x through this backbone; None if it has no routed blocks."""
    if not getattr(backbone, "has_route", False):
        return None
    return partial(_sample_for, backbone.shape)


def _sample_for(shape: Any, x: Tensor, rng: torch.Generator) -> Route:
    grid = x.shape[2] // shape.patch, x.shape[3] // shape.patch
    return sample_route(shape, grid, len(x), rng)


def skip_route(x: Tensor) -> Route:
    """The route of images x on which the routed blocks do not run: the join reads its mask."""
    return Route(torch.empty(len(x), 0, dtype=torch.long, device=x.device))


def run_blocks(
    network: Any,
    step: Callable[[int, Tensor, Tensor | None, Tensor | None], Tensor],
    route: Route | None,
    count: int,
    tokens: Float[Tensor, "b l d"],
    rope: Float[Tensor, "2 l k"] | None = None,
    mask: Bool[Tensor, "b 1 1 l"] | None = None,
) -> Float[Tensor, "b l d"]:
    """The tokens after all blocks, of which the routed ones run on the tokens of the route.

    step: (block, tokens, rope, mask) -> tokens. count: tokens of the image; those of text, after
    them, skip nothing. A token that skips the routed blocks is unchanged by them, or joined with a
    mask if the network has a join. Raises ValueError for a route through a network without routed
    blocks, or of another number of images.
    """
    routed = routed_blocks(network.shape)
    _check_rows(network.shape, route, len(tokens))

    def run(numbers: range, tokens: Tensor, rope: Tensor | None, mask: Tensor | None) -> Tensor:
        for number in numbers:
            tokens = step(number, tokens, rope, mask)
        return tokens

    # First and last blocks see every token; only those between run on the route.
    before = run(range(routed.start), tokens, rope, mask)
    if not routed:
        return before
    after = _run_routed(partial(run, routed), network.fuse, route, count, before, rope, mask)
    return run(range(routed.stop, network.shape.depth), after, rope, mask)


def _check_rows(shape: Any, route: Route | None, rows: int) -> None:
    if route is not None and shape.route == "none":
        raise ValueError(
            "This network was built with route=none and takes no route. Build it with route=tread "
            "or sprint."
        )
    if route is not None and len(route.indices) != rows:
        raise ValueError(f"The route is for {len(route.indices)} images, but x has {rows}.")


def _run_routed(
    blocks: Callable[..., Tensor],
    fuse: Fuse | None,
    route: Route | None,
    count: int,
    tokens: Tensor,
    rope: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    # Without a route, as in sampling, every token passes all blocks; the join is still applied.
    if route is None:
        after = blocks(tokens, rope, mask)
        return after if fuse is None else fuse(tokens, after)
    # An empty route: the routed blocks are skipped, for guidance by path_drop.
    if not route.indices.shape[1]:
        return tokens if fuse is None else fuse(tokens, tokens[:, :0], route.indices)
    # Text always takes the route; positions and mask follow the tokens that do.
    indices = tokens_of.with_text(route.indices, count, tokens.shape[1])
    rope = None if rope is None else tokens_of.rope_of(rope, indices)
    mask = None if mask is None else tokens_of.mask_of(mask, indices)
    after = blocks(tokens_of.take(tokens, indices), rope, mask)
    if fuse is None:
        return tokens_of.put(tokens, indices, after)
    return fuse(tokens, after, indices, route.skipped)


def _share(shape: Any) -> float:
    return SHARES[shape.route] if shape.route_share is None else shape.route_share
