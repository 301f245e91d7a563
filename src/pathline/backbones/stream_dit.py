"""One sequence of image and text tokens, as in Lumina-Image 2.0 (arXiv 2503.21758) and Z-Image."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones import token_routing as routes
from pathline.backbones.conditioning import (
    check_inputs,
    embed_conditions,
    init_weights,
    run_block,
)
from pathline.backbones.sizes import by_size
from pathline.backbones.stream_shape import SHAPES, StreamShape
from pathline.backbones.transformer import Transformer, append, image_tokens, key_mask
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import BlockModulation, build_modulation
from pathline.nn.positions import (
    axes,
    cached_table,
    rotary_picture,
    rotary_text,
    sincos,
    size_ratio,
)
from pathline.types import PLAIN_CALL, Call, Cond, Frame, Output


class Block(nn.Module):
    """Attention and feed-forward, a norm before and after each; modulated gates are 0 at first."""

    def __init__(self, shape: StreamShape, *, modulated: bool = True) -> None:
        super().__init__()
        width, bias = shape.width, shape.bias
        self.modulation = (
            build_modulation(shape.modulation, width, 4, shape.rank) if modulated else None
        )
        self.norm1, self.norm2 = blocks.norm("rms", width), blocks.norm("rms", width)
        self.attention = Attention(width, shape.heads, qk_norm=shape.qk_norm, bias=bias)
        self.norm3, self.norm4 = blocks.norm("rms", width), blocks.norm("rms", width)
        self.mlp = blocks.feed_forward("swiglu", width, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        conditioning: Float[Tensor, "b e"] | None = None,
        rope: Float[Tensor, "2 *rows l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """conditioning: for a modulated block only."""
        if self.modulation is None:
            x = x + self.norm2(self.attention(self.norm1(x), rope, mask))
            return x + self.norm4(self.mlp(self.norm3(x)))
        scale1, gate1, scale2, gate2 = self.modulation(conditioning)  # b 1 d
        y = self.norm2(self.attention(self.norm1(x) * (1 + scale1), rope, mask))
        x = torch.addcmul(x, gate1.tanh(), y)
        y = self.norm4(self.mlp(self.norm3(x) * (1 + scale2)))
        return torch.addcmul(x, gate2.tanh(), y)


class Final(nn.Module):
    """Scaled norm, then tokens -> patches; 0 at first."""

    def __init__(self, shape: StreamShape, channels: int) -> None:
        super().__init__()
        self.modulation = BlockModulation(shape.width, 1)
        self.norm = blocks.norm("layer", shape.width)
        self.linear = nn.Linear(shape.width, shape.patch**2 * channels)

    def forward(
        self, x: Float[Tensor, "b l d"], conditioning: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l e"]:
        (scale,) = self.modulation(conditioning)
        return self.linear(self.norm(x) * (1 + scale))


class StreamDiT(Transformer):
    """(x [B C H W], t [B], cond, call) -> Output, for any H and W that the patch divides.

    Refiner blocks run on image tokens alone and on text tokens alone (these without the time); the
    other blocks run on both, image first. The image is at 0 of the text axis of positions and words
    at 1, 2, …, so that neither padding nor a longer caption in the batch changes an output.
    """

    any_size = True  # positions are computed, not stored
    shape: StreamShape

    def __init__(self, frame: Frame, shape: StreamShape) -> None:
        # Raises ValueError for heads that can't be split among text, row and column.
        axes(shape.width // shape.heads)
        if shape.positions == "both":
            sincos(1, 1, shape.width)  # raises ValueError for a width that has no sincos table
        super().__init__(frame, shape)
        width = shape.width
        self.shared = nn.Linear(width, 4 * width) if shape.modulation == "shared" else None
        # Refiners of each side, then the single stream.
        self.noise_refiners = nn.ModuleList([Block(shape) for _ in range(shape.refiners)])
        count = shape.refiners if frame.text_width else 0
        self.text_refiners = nn.ModuleList([Block(shape, modulated=False) for _ in range(count)])
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.depth)])
        self.fuse = self.build_fuse()
        self.final = Final(shape, frame.channels)
        init_weights(self)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN_CALL,
    ) -> Output:
        """t in [0, 1]. cond: one row per image, or one for all; no mask if no text is padding.

        call: r and route are read. hidden: the image's tokens after the last block. Raises
        ValueError if the patch does not divide x, or if the condition or the call lacks an input
        that the network was built for, or has one that it was not built for.
        """
        check_inputs(self, x, cond, call, any_size=True)
        patch, checkpoint = self.shape.patch, self.shape.checkpoint
        grid = x.shape[2] // patch, x.shape[3] // patch
        conditioning = F.silu(embed_conditions(self, t, cond, call.r))  # b d
        modulation = conditioning if self.shared is None else self.shared(conditioning)
        rope = self._image_rope(grid, x.device)
        tokens = self._add_positions(self.patch(blocks.patchify(x, patch)), grid)
        count = tokens.shape[1]
        # The image is refined before it meets the text, which is refined in _append_text.
        for block in self.noise_refiners:
            tokens = run_block(block, checkpoint, tokens, modulation, rope)
        tokens, rope, mask = self._append_text(tokens, rope, cond)
        step = partial(self._run_block, modulation)
        tokens = routes.run_blocks(self, step, call.route, count, tokens, rope, mask)
        hidden = image_tokens(tokens, count)
        patches = self.final(hidden, conditioning)
        return Output(blocks.unpatchify(patches, patch, *grid), hidden)

    def _run_block(
        self,
        modulation: Tensor,
        number: int,
        tokens: Tensor,
        rope: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        inputs = modulation, rope, mask
        return run_block(self.blocks[number], self.shape.checkpoint, tokens, *inputs)

    def _add_positions(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image tokens with positions, in the dtype of the weights also under autocast."""
        tokens = tokens.to(self.time.up.weight.dtype)
        if self.shape.positions == "rope":
            return tokens
        shrink = 1.0 if self.shape.extrapolate == "none" else self._size_ratio(grid)
        table = cached_table(sincos, *grid, self.shape.width, shrink=shrink, device=tokens.device)
        return tokens + table.to(tokens.dtype)

    def _image_rope(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The rotary table of image tokens."""
        kind, ratio, head = self.shape.extrapolate, self._size_ratio(grid), self._head_width
        options = {
            "theta": self.shape.theta,
            "shrink": ratio if kind == "rescale" else 1.0,
            "ntk": ratio if kind == "ntk" else 1.0,
        }
        return cached_table(rotary_picture, *grid, head, device=device, **options)

    def _size_ratio(self, grid: tuple[int, int]) -> float:
        patch = self.shape.patch
        return size_ratio(*grid, (self.frame.height // patch, self.frame.width // patch))

    @property
    def _head_width(self) -> int:
        return self.shape.width // self.shape.heads

    def _append_text(
        self, tokens: Tensor, rope: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image tokens followed by refined text tokens, their rotary table and their key mask."""
        if self.text is None or cond.tokens is None:
            return tokens, rope, None
        # Text is refined alone and without the time, at positions 1, 2, … of its axis.
        text = self.text(cond.tokens).to(tokens.dtype)
        theta, length, head = self.shape.theta, text.shape[1], self._head_width
        text_rope = cached_table(rotary_text, length, head, theta=theta, device=text.device)
        text_mask = None if cond.mask is None else cond.mask[:, None, None, :]
        for block in self.text_refiners:
            text = run_block(block, self.shape.checkpoint, text, None, text_rope, text_mask)
        rope = torch.cat([rope, text_rope], dim=1)
        mask = key_mask(cond.mask, len(tokens), before=tokens.shape[1])
        return append(tokens, text), rope, mask


stream_dit = by_size("stream_dit", StreamDiT, SHAPES, "S/2")
