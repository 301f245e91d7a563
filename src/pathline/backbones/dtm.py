"""The flow head of difference transition matching (arXiv 2506.23589) upon any backbone.

A small network that sees one token at a time: its noisy value, and what the backbone said of it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.inputs import Backbone
from pathline.nn import blocks
from pathline.nn.modulation import Own
from pathline.types import Cond, Frame, Output

READABLE = ("cross_dit", "dit", "stream_dit")  # backbones whose hidden states a head can read


class Unread(nn.Module):
    """In place of a last layer that nobody reads: no weights, zeros."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Float[Tensor, "b l d"], *_: Tensor) -> Float[Tensor, "b l e"]:
        return x.new_zeros(*x.shape[:2], self.outputs)


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


class Head(nn.Module):
    """Velocity of values y at inner times s, given what the backbone knows; zero at the start."""

    def __init__(
        self, patch: int, channels: int, hidden: int, *, width: int, depth: int, group: int
    ) -> None:
        super().__init__()
        outputs = patch**2 * channels
        self.group, self.size = group, patch  # tokens, and places of x, along a head token's side
        self.patch = nn.Linear(outputs, width)
        self.inner_time = blocks.TimeEmbedding(width)
        self.time = blocks.TimeEmbedding(width)
        self.norm = blocks.norm("layer", hidden)
        self.hidden = nn.Linear(group**2 * hidden, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
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

        s: the inner time of every head token, or a single one for all (m, i, j = 1).
        """
        rows, columns = y.shape[2] // self.size, y.shape[3] // self.size
        tokens = blocks.patchify(y, self.size)
        known = self.hidden(_grouped(self.norm(hidden), rows, columns, self.group))
        known = known + self.time(t)[:, None]  # b l' d
        inner = self.inner_time(s.flatten()).view(len(s), -1, known.shape[-1])
        signal = F.silu(known.repeat(len(y) // len(t), 1, 1) + inner).flatten(0, 1)  # n·l' d
        x = self.patch(tokens.flatten(0, 1)[:, None])  # n·l' 1 d: tokens never meet
        for block in self.blocks:
            x = block(x, signal)
        shift, scale = self.modulation(signal)
        x = self.final(blocks.modulate(self.norm_out(x), shift, scale))
        return blocks.unpatchify(x.view(tokens.shape), self.size, rows, columns)


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
    ) -> Output:
        """The head's velocity at (y, s) for transitions out of (x, t), and the hidden states.

        hidden: what an earlier call gave for the same (x, t, cond); the backbone is not run then.
        Without y and s: the velocity at y = 0, s = 0, which is the mean of what may be drawn.
        """
        if hidden is None:
            hidden = self.backbone(x, t, cond, r).hidden
        if y is None or s is None:
            y, s = torch.zeros_like(x), t.new_zeros(1, 1, 1)
        return Output(self.head(y, s, t, hidden), hidden)


def headed(
    network: nn.Module,
    backbone: nn.Module,
    frame: Frame,
    *,
    width: int | None = None,
    depth: int = 3,
    group: int = 1,
) -> Headed:
    """The network with a head in place of the backbone's last layer.

    network: the backbone itself, or what holds it. width, depth: of the head; None: half of the
    backbone's width. group: tokens along a side of the patch that one head token covers. Raises
    ValueError for a backbone that gives no hidden states and for numbers that don't fit.
    """
    if not isinstance(backbone, Backbone):
        raise ValueError(
            "Transition matching draws from a backbone's hidden states, and "
            f"{type(backbone).__name__} has none to give. Backbones that do: {', '.join(READABLE)}."
        )
    patch = backbone.shape.patch * group
    wide = width or max(backbone.shape.width // 2, patch**2 * frame.channels)
    _refuse_misfit(frame, patch, group, wide, depth)
    ways = {"width": wide, "depth": depth, "group": group}
    head = Head(patch, frame.channels, backbone.shape.width, **ways)
    backbone.add_module("final", Unread(backbone.shape.patch**2 * frame.channels))
    return Headed(network, head)


def _refuse_misfit(frame: Frame, patch: int, group: int, width: int, depth: int) -> None:
    if group < 1 or frame.height % patch or frame.width % patch:
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


def _grouped(
    hidden: Float[Tensor, "b l d"], rows: int, columns: int, group: int
) -> Float[Tensor, "b k e"]:
    """Hidden states of group × group neighbours side by side, for rows × columns head tokens."""
    if group == 1:
        return hidden
    b, _, d = hidden.shape
    x = hidden.view(b, rows, group, columns, group, d).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * columns, group * group * d)
