"""One stream of picture and text tokens, as in Lumina-Image 2.0 (arXiv 2503.21758) and Z-Image."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones import token_routing as routes
from pathline.backbones.conditioning import initialise, refuse_misfit, run, steer
from pathline.backbones.sizes import by_size
from pathline.backbones.stream_shape import SHAPES, StreamShape
from pathline.backbones.token_routing import Fuse
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import Own, modulation
from pathline.nn.positions import axes, growth, once, rotary_picture, rotary_text, sincos
from pathline.nn.token_select import Route
from pathline.types import Cond, Frame, Output


class Block(nn.Module):
    """Attention and feed-forward between norms (sandwich); with a modulation, gates start at 0."""

    def __init__(self, shape: StreamShape, *, modulated: bool = True) -> None:
        super().__init__()
        width, bias = shape.width, shape.bias
        self.modulation = modulation(shape.modulation, width, 4, shape.rank) if modulated else None
        self.norm1, self.norm2 = blocks.norm("rms", width), blocks.norm("rms", width)
        self.attention = Attention(width, shape.heads, qk_norm=shape.qk_norm, bias=bias)
        self.norm3, self.norm4 = blocks.norm("rms", width), blocks.norm("rms", width)
        self.mlp = blocks.feed_forward("swiglu", width, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        signal: Float[Tensor, "b e"] | None = None,
        turn: Float[Tensor, "2 *rows l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """signal: for a modulated block only."""
        if self.modulation is None:
            x = x + self.norm2(self.attention(self.norm1(x), turn, mask))
            return x + self.norm4(self.mlp(self.norm3(x)))
        scale1, gate1, scale2, gate2 = self.modulation(signal)  # b 1 d
        y = self.norm2(self.attention(self.norm1(x) * (1 + scale1), turn, mask))
        x = torch.addcmul(x, gate1.tanh(), y)
        y = self.norm4(self.mlp(self.norm3(x) * (1 + scale2)))
        return torch.addcmul(x, gate2.tanh(), y)


class Final(nn.Module):
    """Scaled norm, then tokens -> patches; zero at the start."""

    def __init__(self, shape: StreamShape, channels: int) -> None:
        super().__init__()
        self.modulation = Own(shape.width, 1)
        self.norm = blocks.norm("layer", shape.width)
        self.linear = nn.Linear(shape.width, shape.patch**2 * channels)

    def forward(
        self, x: Float[Tensor, "b l d"], signal: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l e"]:
        (scale,) = self.modulation(signal)
        return self.linear(self.norm(x) * (1 + scale))


class StreamDiT(nn.Module):
    """(x [B C H W], t [B], cond, r) -> Output, for any H and W that the patch divides.

    Picture tokens are refined alone, text tokens alone and without the time, then both run
    together, picture first. The picture stands at 0 of the text axis and words at 1, 2, …, so that
    neither padding nor a longer caption in the batch moves anything.
    """

    any_size = True  # positions are computed, not stored

    def __init__(self, frame: Frame, shape: StreamShape) -> None:
        super().__init__()
        if frame.height % shape.patch or frame.width % shape.patch:
            raise ValueError(blocks.misfit(frame.height, frame.width, shape.patch))
        axes(shape.width // shape.heads)
        if shape.positions == "both":
            sincos(1, 1, shape.width)  # widths that these can't do are refused now
        width, text, pooled = shape.width, frame.text_width, frame.pooled_width
        self.frame, self.shape = frame, shape
        self.patch = blocks.patch_in(shape.patch**2 * frame.channels, shape.bottleneck, width)
        self.time = blocks.TimeEmbedding(width, scale=shape.time_scale)
        self.span = blocks.TimeEmbedding(width, scale=shape.time_scale) if shape.takes_r else None
        self.label_table = nn.Embedding(frame.classes + 1, width) if frame.classes else None
        self.text = blocks.TextIn(text, width) if text else None
        self.text_pooled = blocks.TextIn(pooled, width) if pooled else None
        self.shared = nn.Linear(width, 4 * width) if shape.modulation == "shared" else None
        self.noise_refiners = nn.ModuleList([Block(shape) for _ in range(shape.refiners)])
        # not "context_refiners": roles are read from names, and these blocks' is not "text"
        prompt = shape.refiners if text else 0
        self.prompt_refiners = nn.ModuleList([Block(shape, modulated=False) for _ in range(prompt)])
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.depth)])
        self.fuse = Fuse(width) if shape.route == "sprint" else None
        self.final = Final(shape, frame.channels)
        initialise(self)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        r: Float[Tensor, " b"] | None = None,
        route: Route | None = None,
    ) -> Output:
        """t in [0, 1]. cond: one row per picture, or one for all; no mask where all is text.

        route: None for all tokens. hidden: the picture's tokens after the last block. Raises
        ValueError if the patch does not divide x, or if the condition, r or route lacks what the
        network was built for or brings what it was not.
        """
        refuse_misfit(self, x, cond, r, any_size=True)
        patch, checkpoint = self.shape.patch, self.shape.checkpoint
        grid = x.shape[2] // patch, x.shape[3] // patch
        steered = F.silu(steer(self, t, cond, r))  # b d
        signal = steered if self.shared is None else self.shared(steered)
        turn = self._turn(grid, x.device)
        tokens = self._placed(self.patch(blocks.patchify(x, patch)), grid)
        count = tokens.shape[1]
        for block in self.noise_refiners:
            tokens = run(block, checkpoint, tokens, signal, turn)
        tokens, turn, mask = self._joined(tokens, turn, cond)
        step = partial(self._step, signal)
        tokens = routes.walk(self, step, route, count, tokens, turn, mask)
        # cloned, for fsdp2 loses its hook on a view; a slice of everything would cost a copy too
        hidden = tokens if self.text is None else tokens[:, :count].clone()
        patches = self.final(hidden, steered)
        return Output(blocks.unpatchify(patches, patch, *grid), hidden)

    def _step(
        self,
        signal: Tensor,
        number: int,
        tokens: Tensor,
        turn: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return run(self.blocks[number], self.shape.checkpoint, tokens, signal, turn, mask)

    def _placed(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Picture tokens in the stream's precision, which autocast must not narrow."""
        tokens = tokens.to(self.time.up.weight.dtype)
        if self.shape.positions == "rope":
            return tokens
        squeeze = 1.0 if self.shape.extrapolate == "none" else self._growth(grid)
        table = once(sincos, *grid, self.shape.width, squeeze=squeeze, device=tokens.device)
        return tokens + table.to(tokens.dtype)

    def _turn(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The rotary table of picture tokens."""
        kind, grown, head = self.shape.extrapolate, self._growth(grid), self._head
        ways = {
            "theta": self.shape.theta,
            "squeeze": grown if kind == "rescale" else 1.0,
            "spread": grown if kind == "ntk" else 1.0,
        }
        return once(rotary_picture, *grid, head, device=device, **ways)

    def _growth(self, grid: tuple[int, int]) -> float:
        patch = self.shape.patch
        return growth(*grid, (self.frame.height // patch, self.frame.width // patch))

    @property
    def _head(self) -> int:
        return self.shape.width // self.shape.heads

    def _joined(
        self, tokens: Tensor, turn: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Picture tokens followed by refined text tokens, their rotary table and their key mask."""
        if self.text is None or cond.tokens is None:
            return tokens, turn, None
        b, count, _ = tokens.shape
        text = self.text(cond.tokens).to(tokens.dtype)
        theta, mask = self.shape.theta, cond.mask
        places = once(rotary_text, text.shape[1], self._head, theta=theta, device=text.device)
        alone = None if mask is None else mask[:, None, None, :]
        for block in self.prompt_refiners:
            text = run(block, self.shape.checkpoint, text, None, places, alone)
        joined = torch.cat([tokens, text.expand(b, -1, -1)], dim=1)
        turn = torch.cat([turn, places], dim=1)
        if mask is None:
            return joined, turn, None
        mask = F.pad(mask.expand(b, -1), (count, 0), value=True)
        return joined, turn, mask[:, None, None, :]


stream_dit = by_size("stream_dit", StreamDiT, SHAPES, "S/2")
