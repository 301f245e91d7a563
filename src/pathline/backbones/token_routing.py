"""The stretch of a backbone's blocks that some tokens miss while it learns: TREAD and SPRINT.

A shape with the settings route, route_share, route_before, route_after and path_drop has one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pathline.nn import token_select as routing
from pathline.nn.token_select import Route

Routing = Literal["none", "tread", "sprint"]
SHARES = {"tread": 0.5, "sprint": 0.75}  # of the tokens that are left out, where nobody says
FOURTHS = (0.0, 0.25, 0.5, 0.75)  # of a group of 2x2


@dataclass(frozen=True)
class RouteShape:
    """Settings of a route: tokens that skip the middle blocks in training."""

    route: Routing = "none"  # tread passes tokens around, sprint learns how to join them again
    route_share: float | None = None  # share of tokens left out; null: 0.5, for sprint 0.75
    route_before: int = 2  # first blocks, which every token passes
    route_after: int = 2  # last blocks, which every token passes
    path_drop: float = 0.05  # sprint: share of images whose join gets nothing from the route


class Fuse(nn.Module):
    """SPRINT's join: what a token was before the stretch, and what that made of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(width))  # for tokens that missed the stretch
        self.linear = nn.Linear(2 * width, width)

    def forward(
        self,
        before: Float[Tensor, "b l d"],
        after: Float[Tensor, "b k d"],
        kept: Tensor | None = None,
        skipped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """after: of the places `kept`, of all without."""
        if kept is not None:
            after = routing.put(self.mask.to(before.dtype).expand_as(before), kept, after)
        if skipped is not None:
            after = torch.where(skipped[:, None, None], self.mask.to(after.dtype), after)
        return self.linear(torch.cat([before, after], dim=2)).to(before.dtype)


def stretch(shape: Any) -> range:
    """The blocks, counted from 0, that tokens may miss; without a route an empty one at the end."""
    if shape.route == "none":
        return range(shape.depth, shape.depth)
    return range(shape.route_before, shape.depth - shape.route_after)


def _room(depth: int) -> str:
    least = " Here: backbone.route_before=1 backbone.route_after=1."
    return least if depth > 2 else ""


def refuse(shape: Any, look: int = 0) -> None:
    """Raises ValueError for a route that a shape can't have; look: the block terms look at."""
    if shape.route == "none":
        return
    inside = stretch(shape)
    if min(shape.route_before, shape.route_after, len(inside)) < 1:
        raise ValueError(
            f"Of {shape.depth} blocks {shape.route_before} stand before the route and "
            f"{shape.route_after} after it: want at least 1 before, 1 in it and 1 after "
            f"(backbone.route_before, route_after, depth).{_room(shape.depth)}"
        )
    share = _share(shape)
    if not 0 <= share < 1:
        raise ValueError(f"route_share is {share}; it is the share left out and lies in [0, 1).")
    if shape.route == "sprint" and share not in FOURTHS:
        raise ValueError(
            f"route_share is {share}, but sprint keeps tokens by groups of 2x2: take 0.75, 0.5, "
            "0.25 or 0, or route=tread."
        )
    if not 0 <= shape.path_drop < 1:
        raise ValueError(f"path_drop is {shape.path_drop}; it is a share and lies in [0, 1).")
    if inside.start < look <= inside.stop:
        raise ValueError(
            f"look={look} lies in the route, blocks {inside.start + 1} to {inside.stop}, which "
            f"not all tokens see: take up to {inside.start}, from {inside.stop + 1} on, or 0."
        )


def draw(shape: Any, grid: tuple[int, int], rows: int, rng: torch.Generator) -> Route:
    """A route for so many pictures of rows x columns tokens."""
    share = _share(shape)
    if shape.route == "tread":
        return Route(routing.anywhere(rows, grid[0] * grid[1], share, rng))
    kept = routing.in_groups(rows, grid, round(4 * (1 - share)), rng)
    if not shape.path_drop:
        return Route(kept)
    return Route(kept, torch.rand(rows, generator=rng, device=rng.device) < shape.path_drop)


def drawer(network: nn.Module) -> Callable[[Tensor, torch.Generator], Route] | None:
    """(x, rng) -> a route for x through the backbone in `network`; None if that has no route."""
    for module in network.modules():
        shape = getattr(module, "shape", None)
        if getattr(shape, "route", "none") != "none":
            return partial(_draw_for, shape)
    return None


def _draw_for(shape: Any, x: Tensor, rng: torch.Generator) -> Route:
    return draw(shape, (x.shape[2] // shape.patch, x.shape[3] // shape.patch), len(x), rng)


def joins(network: nn.Module) -> bool:
    """Whether the backbone in `network` has a join, and so can do without its stretch."""
    return any(isinstance(module, Fuse) for module in network.modules())


def around(x: Tensor) -> Route:
    """The route of pictures x on which the stretch does not run: the join hears its mask alone."""
    return Route(torch.empty(len(x), 0, dtype=torch.long, device=x.device))


def walk(
    network: Any,
    step: Callable[[int, Tensor, Tensor | None, Tensor | None], Tensor],
    route: Route | None,
    count: int,
    tokens: Float[Tensor, "b l d"],
    turn: Float[Tensor, "2 l k"] | None = None,
    mask: Bool[Tensor, "b 1 1 l"] | None = None,
) -> Float[Tensor, "b l d"]:
    """The tokens after all blocks, of which those of the stretch see what the route keeps.

    step: (block, tokens, turn, mask) -> tokens. count: tokens of the picture; those of text, behind
    them, miss nothing. A token that misses the stretch comes out as it went in, or where the
    network has a join, joined with its mask. Raises ValueError for a route through a network
    without, or of other rows than there are.
    """
    inside = stretch(network.shape)
    _refuse_route(network.shape, route, len(tokens))

    def some(numbers: range, tokens: Tensor, turn: Tensor | None, mask: Tensor | None) -> Tensor:
        for number in numbers:
            tokens = step(number, tokens, turn, mask)
        return tokens

    before = some(range(inside.start), tokens, turn, mask)
    if not inside:
        return before
    after = _routed(partial(some, inside), network.fuse, route, count, before, turn, mask)
    return some(range(inside.stop, network.shape.depth), after, turn, mask)


def _refuse_route(shape: Any, route: Route | None, rows: int) -> None:
    if route is not None and shape.route == "none":
        raise ValueError(
            "This network was built without a route: build it with route=tread or sprint."
        )
    if route is not None and len(route.kept) != rows:
        raise ValueError(f"The route is for {len(route.kept)} pictures, these are {rows}.")


def _routed(
    blocks: Callable[..., Tensor],
    fuse: Fuse | None,
    route: Route | None,
    count: int,
    tokens: Tensor,
    turn: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    if route is None:
        after = blocks(tokens, turn, mask)
        return after if fuse is None else fuse(tokens, after)
    if not route.kept.shape[1]:
        return tokens if fuse is None else fuse(tokens, tokens[:, :0], route.kept)
    kept = routing.whole(route.kept, count, tokens.shape[1])
    turn = None if turn is None else routing.turns(turn, kept)
    mask = None if mask is None else routing.masks(mask, kept)
    after = blocks(routing.take(tokens, kept), turn, mask)
    if fuse is None:
        return routing.put(tokens, kept, after)
    return fuse(tokens, after, kept, route.skipped)


def _share(shape: Any) -> float:
    return SHARES[shape.route] if shape.route_share is None else shape.route_share
