"""The flow head of difference transition matching (arXiv 2506.23589).

A small network that reads noisy values of tokens and the backbone's hidden states: one token at a
time, or the tokens of a group, which attend to one another (arXiv 2512.12465).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.conditioning import NoFinal, zero_modulations
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import BlockModulation
from pathline.nn.positions import cached_table, sincos
from pathline.types import Frame

Kind = Literal["mlp", "transformer"]


class Block(nn.Module):
    """A modulated feed-forward on single tokens; the identity at first (MAR, arXiv 2406.11838)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = BlockModulation(width, 3)
        self.norm = blocks.norm("layer", width)
        self.mlp = blocks.Gelu(width, width)

    def forward(
        self, x: Float[Tensor, "n 1 d"], conditioning: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n 1 d"]:
        shift, scale, gate = self.modulation(conditioning)
        return torch.addcmul(x, gate, self.mlp(blocks.modulate(self.norm(x), shift, scale)))


class GroupBlock(nn.Module):
    """Modulated attention among the tokens of a group, then a feed-forward on each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = BlockModulation(width, 3)
        self.norm = blocks.norm("layer", width)
        self.attention = Attention(width, _heads(width))
        self.token_block = Block(width)

    def forward(
        self, x: Float[Tensor, "m k d"], conditioning: Float[Tensor, "n d"]
    ) -> Float[Tensor, "m k d"]:
        """conditioning: a row for each of the m·k tokens."""
        shift, scale, gate = (part.view_as(x) for part in self.modulation(conditioning))
        y = self.attention(torch.addcmul(shift, self.norm(x), 1 + scale))
        x = torch.addcmul(x, gate, y)
        return self.token_block(x.flatten(0, 1)[:, None], conditioning).view_as(x)


class Head(nn.Module):
    """(y, s, t, hidden) -> velocity of y at inner times s; 0 at first.

    group: side of the square of the backbone's tokens that is sampled as one; 0: the whole image.
    mlp concatenates these tokens, in a transformer they attend to one another.
    """

    def __init__(
        self,
        patch: int,
        channels: int,
        hidden: int,
        *,
        width: int,
        depth: int,
        group: int,
        kind: Kind = "mlp",
    ) -> None:
        super().__init__()
        self.attends, self.group = kind == "transformer", group
        self.size = patch * group  # side of the square of x that shares an inner time; 0: all of x
        self.side, joined = (patch, 1) if self.attends else (self.size, group)  # of a head token
        outputs = self.side**2 * channels
        # Inputs: the noisy value, its inner time, the outer time, hidden states.
        self.patch = nn.Linear(outputs, width)
        self.inner_time = blocks.TimeEmbedding(width)
        self.time = blocks.TimeEmbedding(width)
        self.norm = blocks.norm("layer", hidden)
        self.hidden = nn.Linear(joined**2 * hidden, width)
        # Blocks and the last layer, which starts at zero.
        block = GroupBlock if self.attends else Block
        self.blocks = nn.ModuleList([block(width) for _ in range(depth)])
        self.modulation = BlockModulation(width, 2)
        self.norm_out = blocks.norm("layer", width)
        self.final = nn.Linear(width, outputs)
        blocks.xavier(self)
        nn.init.zeros_(self.final.weight)
        for embedding in (self.inner_time, self.time):
            nn.init.normal_(embedding.up.weight, std=0.02)
            nn.init.normal_(embedding.down.weight, std=0.02)
        zero_modulations(self)

    def forward(
        self,
        y: Float[Tensor, "n c h w"],
        s: Float[Tensor, "m i j"],
        t: Float[Tensor, " b"],
        hidden: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "n c h w"]:
        """n is a multiple of b: row i of y belongs to row i mod b of t and hidden.

        s: the inner time of each group, or one for all (m, i, j = 1). Raises ValueError for an
        image that groups can't tile.
        """
        _check_tiles(y, self.size or self.side)
        rows, columns = y.shape[2] // self.side, y.shape[3] // self.side
        state = self.norm(hidden)
        if not self.attends:
            state = _grouped(state, rows * self.group, columns * self.group, self.group).flatten(2)
        # b groups k d: the k tokens of a group attend to one another
        state, tokens = (
            self._by_group(x, rows, columns) for x in (state, blocks.patchify(y, self.side))
        )
        # the conditioning of each token: hidden states, outer time and inner time
        state = self.hidden(state) + self.time(t)[:, None, None]
        inner = self.inner_time(s.flatten()).view(len(s), -1, 1, state.shape[-1])
        conditioning = F.silu(state.repeat(len(y) // len(t), 1, 1, 1) + inner).flatten(0, 2)
        x = self.patch(tokens.flatten(0, 1))
        if self.attends:
            x = x + self._positions(x, rows, columns)
        for block in self.blocks:
            x = block(x, conditioning)
        shift, scale = self.modulation(conditioning)
        x = x.flatten(0, 1)[:, None]
        x = self.final(blocks.modulate(self.norm_out(x), shift, scale))
        x = self._in_rows(x.view(tokens.shape), rows, columns)
        return blocks.unpatchify(x, self.side, rows, columns)

    def _by_group(self, x: Tensor, rows: int, columns: int) -> Float[Tensor, "b g k d"]:
        """Tokens of the image by group."""
        if not self.attends:
            return x[:, :, None]
        return _grouped(x, rows, columns, self.group) if self.group else x[:, None]

    def _in_rows(self, x: Float[Tensor, "b g k d"], rows: int, columns: int) -> Tensor:
        """The inverse of `_by_group`."""
        if not self.attends or not self.group:
            return x.flatten(1, 2)
        return _ungrouped(x, rows, columns, self.group)

    def _positions(self, x: Tensor, rows: int, columns: int) -> Float[Tensor, "k d"]:
        """Positions of the tokens in their group."""
        sides = (self.group, self.group) if self.group else (rows, columns)
        return cached_table(sincos, *sides, x.shape[-1], device=x.device).to(x.dtype)


def build_head(
    backbone: nn.Module,
    frame: Frame,
    *,
    kind: Kind = "mlp",
    width: int | None = None,
    depth: int = 3,
    group: int = 1,
) -> Head:
    """A head for this backbone, whose own last layer is removed.

    width, depth: of the head; null: half of the backbone's width, or the values of a head token if
    these are more. group: tokens along a side of the square that the head samples as one; 0, of a
    transformer: all. Raises ValueError for a backbone that takes no head and for numbers that
    don't fit.
    """
    if not getattr(backbone, "takes_head", False):
        raise ValueError(
            f"objective=transition is wrong because {type(backbone).__name__} takes no transition "
            "head: no last layer of it reads its hidden states. Set backbone=dit, cross_dit or "
            "stream_dit."
        )
    # An mlp head joins the tokens of a group; a transformer keeps them apart.
    shape: Any = backbone.shape
    side = shape.patch * (group if kind == "mlp" else 1)
    wide = max(shape.width // 2, side**2 * frame.channels) if width is None else width
    _check_sizes(frame, side, group, wide, depth)
    if kind == "transformer":
        _check_groups(frame, side, group, wide)
    sizes = {"width": wide, "depth": depth, "group": group}
    head = Head(shape.patch, frame.channels, shape.width, kind=kind, **sizes)
    # The head reads hidden states, so the backbone's last layer would get no gradient.
    backbone.add_module("final", NoFinal(shape.patch**2 * frame.channels))
    return head


def _check_sizes(frame: Frame, patch: int, group: int, width: int, depth: int) -> None:
    """patch: side of a head token, in pixels or latent positions."""
    if patch < 1:
        raise ValueError(
            f"objective.head_group={group} is wrong because an mlp head samples squares of 1 or "
            "more tokens. Set 1 or more, or 0 (all tokens) with objective.head=transformer."
        )
    if frame.height % patch or frame.width % patch:
        raise ValueError(
            f"objective.head_group={group} is wrong because a head token of {group}x{group} "
            f"patches, {patch}x{patch} in x, can't tile {frame.height}x{frame.width}."
        )
    # A velocity holds all the noise of its token, of which a narrower head would lose a part.
    values = patch**2 * frame.channels
    if depth < 1 or width < values:
        raise ValueError(
            f"A head of width {width} and depth {depth} can't represent the noise of its tokens, "
            f"{patch}x{patch}x{frame.channels} = {values} values. Set objective.head_width to "
            f"{values} or more and objective.head_depth to 1 or more."
        )


def _check_groups(frame: Frame, patch: int, group: int, width: int) -> None:
    rows, columns = frame.height // patch, frame.width // patch
    if group < 0 or (group and (rows % group or columns % group)):
        raise ValueError(
            f"objective.head_group={group} is wrong because groups of {group}x{group} tokens can't "
            f"tile the {rows}x{columns} tokens of an image. Set a number that divides both, or 0 "
            "for the whole image."
        )
    if width % 4:
        raise ValueError(
            f"objective.head_width={width} is wrong because the sin-cos positions of a transformer "
            "head need a multiple of 4. Set a multiple of 4."
        )


def _check_tiles(y: Tensor, side: int) -> None:
    height, width = y.shape[2:]
    if height % side or width % side:
        raise ValueError(
            f"This head samples squares of {side}x{side} as one, which can't tile "
            f"{height}x{width}. Sample a size whose sides are multiples of {side}, or train with a "
            "smaller objective.head_group."
        )


def _heads(width: int) -> int:
    """The largest number of heads that divides the width into heads of 64 or more."""
    return next(count for count in range(max(1, width // 64), 0, -1) if not width % count)


def _grouped(
    x: Float[Tensor, "b l d"], rows: int, columns: int, group: int
) -> Float[Tensor, "b g k d"]:
    """rows × columns tokens by groups of group × group neighbours, both row by row."""
    b, _, d = x.shape
    x = x.view(b, rows // group, group, columns // group, group, d).transpose(2, 3)
    return x.reshape(b, -1, group * group, d)


def _ungrouped(
    x: Float[Tensor, "b g k d"], rows: int, columns: int, group: int
) -> Float[Tensor, "b l d"]:
    """The inverse of `_grouped`."""
    b, *_, d = x.shape
    x = x.view(b, rows // group, columns // group, group, group, d).transpose(2, 3)
    return x.reshape(b, rows * columns, d)
