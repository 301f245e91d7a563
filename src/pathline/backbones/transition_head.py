"""The flow head of difference transition matching (arXiv 2506.23589) upon any backbone.

A small network that sees noisy values of tokens and what the backbone said of them: one token at a
time, or those of a group that attend to one another (arXiv 2512.12465).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.conditioning import Backbone, Unread
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import Own
from pathline.nn.positions import once, sincos
from pathline.types import Cond, Frame, Output

READABLE = ("cross_dit", "dit", "stream_dit")  # backbones whose hidden states a head can read
Kind = Literal["mlp", "transformer"]


class Block(nn.Module):
    """A modulated feed-forward on single tokens; identity at the start (MAR, arXiv 2406.11838)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Own(width, 3)
        self.norm = blocks.norm("layer", width)
        self.mlp = blocks.Gelu(width, width)

    def forward(
        self, x: Float[Tensor, "n 1 d"], signal: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n 1 d"]:
        shift, scale, gate = self.modulation(signal)
        return torch.addcmul(x, gate, self.mlp(blocks.modulate(self.norm(x), shift, scale)))


class Meeting(nn.Module):
    """Modulated attention among the tokens of a group, then a feed-forward on each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Own(width, 3)
        self.norm = blocks.norm("layer", width)
        self.attention = Attention(width, _heads(width))
        self.each = Block(width)

    def forward(
        self, x: Float[Tensor, "m k d"], signal: Float[Tensor, "n d"]
    ) -> Float[Tensor, "m k d"]:
        """signal: a row for each of the m·k tokens."""
        shift, scale, gate = (part.view_as(x) for part in self.modulation(signal))
        y = self.attention(torch.addcmul(shift, self.norm(x), 1 + scale))
        x = torch.addcmul(x, gate, y)
        return self.each(x.flatten(0, 1)[:, None], signal).view_as(x)


class Head(nn.Module):
    """Velocity of values y at inner times s, given what the backbone knows; zero at the start.

    group: side of what is drawn as one, in the backbone's tokens; 0: the whole picture. mlp makes
    one wide token of it, transformer lets its tokens attend to one another.
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
        self.meets, self.group = kind == "transformer", group
        self.size = patch * group  # places of x along the side that shares an inner time; 0: all
        self.side, joined = (patch, 1) if self.meets else (self.size, group)  # of a head token
        outputs = self.side**2 * channels
        self.patch = nn.Linear(outputs, width)
        self.inner_time = blocks.TimeEmbedding(width)
        self.time = blocks.TimeEmbedding(width)
        self.norm = blocks.norm("layer", hidden)
        self.hidden = nn.Linear(joined**2 * hidden, width)
        block = Meeting if self.meets else Block
        self.blocks = nn.ModuleList([block(width) for _ in range(depth)])
        self.modulation = Own(width, 2)
        self.norm_out = blocks.norm("layer", width)
        self.final = nn.Linear(width, outputs)
        blocks.xavier(self)
        nn.init.zeros_(self.final.weight)
        for embedding in (self.inner_time, self.time):
            nn.init.normal_(embedding.up.weight, std=0.02)
            nn.init.normal_(embedding.down.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Own):
                module.zero()

    def forward(
        self,
        y: Float[Tensor, "n c h w"],
        s: Float[Tensor, "m i j"],
        t: Float[Tensor, " b"],
        hidden: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "n c h w"]:
        """n is a multiple of b: all rows of hidden once, then all of them again.

        s: the inner time of every group, or a single one for all (m, i, j = 1). Raises ValueError
        for a picture that groups can't tile.
        """
        _refuse_torn(y, self.size or self.side)
        rows, columns = y.shape[2] // self.side, y.shape[3] // self.side
        known = self.norm(hidden)
        if not self.meets:
            known = _grouped(known, rows * self.group, columns * self.group, self.group).flatten(2)
        known, tokens = (
            self._met(x, rows, columns) for x in (known, blocks.patchify(y, self.side))
        )  # b groups k d: the k tokens of a group meet
        known = self.hidden(known) + self.time(t)[:, None, None]
        inner = self.inner_time(s.flatten()).view(len(s), -1, 1, known.shape[-1])
        signal = F.silu(known.repeat(len(y) // len(t), 1, 1, 1) + inner).flatten(0, 2)
        x = self.patch(tokens.flatten(0, 1))
        if self.meets:
            x = x + self._places(x, rows, columns)
        for block in self.blocks:
            x = block(x, signal)
        shift, scale = self.modulation(signal)
        x = x.flatten(0, 1)[:, None]
        x = self.final(blocks.modulate(self.norm_out(x), shift, scale))
        x = self._parted(x.view(tokens.shape), rows, columns)
        return blocks.unpatchify(x, self.side, rows, columns)

    def _met(self, x: Tensor, rows: int, columns: int) -> Float[Tensor, "b g k d"]:
        """Tokens of the picture by groups."""
        if not self.meets:
            return x[:, :, None]
        return _grouped(x, rows, columns, self.group) if self.group else x[:, None]

    def _parted(self, x: Float[Tensor, "b g k d"], rows: int, columns: int) -> Tensor:
        """The inverse of `_met`."""
        if not self.meets or not self.group:
            return x.flatten(1, 2)
        return _ungrouped(x, rows, columns, self.group)

    def _places(self, x: Tensor, rows: int, columns: int) -> Float[Tensor, "k d"]:
        """Where in its group a token stands."""
        sides = (self.group, self.group) if self.group else (rows, columns)
        return once(sincos, *sides, x.shape[-1], device=x.device).to(x.dtype)


class Headed(nn.Module):
    """A backbone, run once, and the head that draws a whole transition from its hidden states."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        r: Float[Tensor, " b"] | None = None,
        hidden: Float[Tensor, "b l d"] | None = None,
        y: Float[Tensor, "n c h w"] | None = None,
        s: Float[Tensor, "m i j"] | None = None,
        **ways: Any,
    ) -> Output:
        """The head's velocity at (y, s) for transitions out of (x, t), and the hidden states.

        hidden: what an earlier call gave for the same (x, t, cond); the backbone is not run then.
        Without y and s: the velocity at y = 0, s = 0, which is the mean of what may be drawn.
        ways: further arguments of the backbone, such as a route.
        """
        inner = None
        if hidden is None:
            out: Output = self.backbone(x, t, cond, r, **ways)
            hidden, inner = out.hidden, out.inner
        if y is None or s is None:
            y, s = torch.zeros_like(x), t.new_zeros(1, 1, 1)
        return Output(self.head(y, s, t, hidden), hidden, inner)


def headed(
    network: nn.Module,
    backbone: nn.Module,
    frame: Frame,
    *,
    kind: Kind = "mlp",
    width: int | None = None,
    depth: int = 3,
    group: int = 1,
) -> Headed:
    """The network with a head in place of the backbone's last layer.

    network: the backbone itself, or what holds it. width, depth: of the head; None: half of the
    backbone's width, and what a token's numbers take. group: tokens along a side of what the head
    draws as one; 0, of a transformer: all. Raises ValueError for a backbone that gives no hidden
    states and for numbers that don't fit.
    """
    if not isinstance(backbone, Backbone):
        raise ValueError(
            "Transition matching puts its head upon a backbone's hidden states, and no head fits "
            f"{type(backbone).__name__}. Backbones that take one: {', '.join(READABLE)}."
        )
    shape = backbone.shape
    side = shape.patch * (group if kind == "mlp" else 1)
    wide = max(shape.width // 2, side**2 * frame.channels) if width is None else width
    _refuse_misfit(frame, side, group, wide, depth)
    if kind == "transformer":
        _refuse_groups(frame, side, group, wide)
    ways = {"width": wide, "depth": depth, "group": group}
    head = Head(shape.patch, frame.channels, shape.width, kind=kind, **ways)
    backbone.add_module("final", Unread(shape.patch**2 * frame.channels))
    return Headed(network, head)


def _refuse_misfit(frame: Frame, patch: int, group: int, width: int, depth: int) -> None:
    """patch: places along the side of a head's token."""
    if patch < 1:
        raise ValueError(
            f"objective.head_group is {group}; a head of single tokens or squares wants 1 or more "
            "(0, all tokens, and none below it, with objective.head=transformer)."
        )
    if frame.height % patch or frame.width % patch:
        raise ValueError(
            f"A head's token of {group}x{group} patches, {patch}x{patch} places, can't tile "
            f"{frame.height}x{frame.width}."
        )
    numbers = patch**2 * frame.channels
    if depth < 1 or width < numbers:
        raise ValueError(
            f"A head of width {width} and depth {depth} can't carry the noise of its tokens, "
            f"{patch}x{patch}x{frame.channels} = {numbers} numbers: want a width of as many or "
            "more, and a depth of 1 or more."
        )


def _refuse_groups(frame: Frame, patch: int, group: int, width: int) -> None:
    rows, columns = frame.height // patch, frame.width // patch
    if group < 0 or (group and (rows % group or columns % group)):
        raise ValueError(
            f"Groups of {group}x{group} tokens can't tile the {rows}x{columns} tokens of a "
            "picture: take a side that divides both, or 0 for the whole picture."
        )
    if width % 4:
        raise ValueError(f"A transformer head's width must be a multiple of 4, got {width}.")


def _refuse_torn(y: Tensor, side: int) -> None:
    height, width = y.shape[2:]
    if height % side or width % side:
        raise ValueError(
            f"This head draws {side}x{side} places as one, which can't tile {height}x{width}: both "
            f"must be multiples of {side}. Such sizes want a smaller objective.head_group."
        )


def _heads(width: int) -> int:
    """As many as divide the width, each of 64 or a little more."""
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
