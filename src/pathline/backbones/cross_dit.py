"""Text by cross-attention, one modulation for all blocks: PixArt-α (arXiv 2310.00426)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

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
from pathline.backbones.sizes import Shape, by_size, check
from pathline.backbones.transformer import (
    Transformer,
    first_channels,
    key_mask,
    output_channels,
)
from pathline.nn import blocks
from pathline.nn.attention import Attention, CrossAttention
from pathline.nn.modulation import SharedModulation
from pathline.nn.positions import cached_table, sincos, size_ratio
from pathline.ranges import NotNegativeFloat, Width
from pathline.types import PLAIN_CALL, Call, Cond, Frame, Output

Mlp = Literal["gelu", "swiglu"]
Extrapolate = Literal["none", "rescale"]


@dataclass(frozen=True)
class CrossShape(routes.RouteShape, Shape):
    """Text by cross-attention, one modulation for all blocks: PixArt-α (arXiv 2310.00426)."""

    label_std: NotNegativeFloat = 1.0
    mlp: Mlp = "gelu"  # the feed-forward
    # Positions in images larger than those trained on: rescale squeezes them into the range that
    # was trained, none counts on.
    extrapolate: Extrapolate = "rescale"
    # Channels that the network gives, at least those of x; the first are the value (PixArt's
    # weights have twice as many). null: as many as x has.
    outputs: Width | None = None

    def __post_init__(self) -> None:
        check(self)
        routes.check_route(self)


class Block(nn.Module):
    """Self-attention, cross-attention to text, feed-forward; the identity at first."""

    def __init__(self, shape: CrossShape, text: bool) -> None:
        super().__init__()
        width, heads, qk_norm = shape.width, shape.heads, shape.qk_norm
        self.modulation = SharedModulation(width, 6)
        self.norm1 = blocks.norm("layer", width)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.cross_attention = CrossAttention(width, heads, qk_norm=qk_norm) if text else None
        self.norm2 = blocks.norm("layer", width)
        self.mlp = blocks.feed_forward(shape.mlp, width)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        conditioning: Float[Tensor, "b e"],
        text: Float[Tensor, "b m d"] | None = None,
        mask: Bool[Tensor, "b 1 1 m"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(conditioning)  # b 1 d
        y = self.attention(blocks.modulate(self.norm1(x), shift1, scale1))
        x = torch.addcmul(x, gate1, y)
        if self.cross_attention is not None and text is not None:
            x = x + self.cross_attention(x, text, mask)
        y = self.mlp(blocks.modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2, y)


class Final(nn.Module):
    """Norm modulated by the conditioning vector and a table, then tokens -> patches; 0 at first."""

    def __init__(self, shape: CrossShape, outputs: int) -> None:
        super().__init__()
        self.modulation = SharedModulation(shape.width, 2)
        self.norm = blocks.norm("layer", shape.width)
        self.linear = nn.Linear(shape.width, shape.patch**2 * outputs)

    def forward(
        self, x: Float[Tensor, "b l d"], conditioning: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l e"]:
        shift, scale = self.modulation(torch.cat([conditioning, conditioning], dim=1))
        return self.linear(blocks.modulate(self.norm(x), shift, scale))


class CrossDiT(Transformer):
    """(x [B C H W], t [B], cond, call) -> Output, for any H and W that the patch divides."""

    any_size = True  # positions are computed, not stored
    shape: CrossShape

    def __init__(self, frame: Frame, shape: CrossShape) -> None:
        super().__init__(frame, shape, text_out=True)
        width, has_text = shape.width, bool(frame.text_width)
        sincos(1, 1, width)  # raises ValueError for a width that has no sincos table
        self.shared: nn.Linear | None = nn.Linear(width, 6 * width)
        # Trunk, and what joins tokens that skipped a part of it.
        self.blocks = nn.ModuleList([Block(shape, has_text) for _ in range(shape.depth)])
        self.fuse = self.build_fuse()
        self.final = Final(shape, output_channels(frame, shape.outputs))
        init_weights(self)
        # Cross-attention starts at zero as every other branch of a block.
        for module in self.modules():
            if isinstance(module, CrossAttention):
                nn.init.zeros_(module.out.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN_CALL,
    ) -> Output:
        """t in [0, 1]. cond: one row per image, or one for all. call: r and route are read.

        hidden: the image's tokens after the last block. Raises ValueError if the patch does not
        divide x, or if the condition or the call lacks an input that the network was built for,
        or has one that it was not built for.
        """
        check_inputs(self, x, cond, call, any_size=True)
        assert self.shared is not None
        patch, stream = self.shape.patch, self.time.up.weight.dtype
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        # One projection for all blocks, which add only a table each (adaLN-single).
        conditioning = embed_conditions(self, t, cond, call.r)  # b d
        modulation = self.shared(F.silu(conditioning))
        # the residual stream stays in the dtype of the weights under autocast
        tokens = self.patch(blocks.patchify(x, patch)).to(stream)  # b l d
        tokens = tokens + self._positions(rows, columns, x.device).to(stream)
        # Text is embedded once; every block attends to the same states.
        text, mask = self._embed_text(cond, len(x))
        step = partial(self._run_block, (modulation, text, mask))
        tokens = routes.run_blocks(self, step, call.route, tokens.shape[1], tokens)
        value = blocks.unpatchify(self.final(tokens, conditioning), patch, rows, columns)
        return Output(first_channels(value, self.frame.channels), tokens)

    def _run_block(
        self, inputs: tuple[Tensor | None, ...], number: int, tokens: Tensor, *_: Tensor | None
    ) -> Tensor:
        return run_block(self.blocks[number], self.shape.checkpoint, tokens, *inputs)

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        trained = self.frame.height // self.shape.patch, self.frame.width // self.shape.patch
        shrink = size_ratio(rows, columns, trained) if self.shape.extrapolate == "rescale" else 1.0
        return cached_table(sincos, rows, columns, self.shape.width, shrink=shrink, device=device)

    def _embed_text(self, cond: Cond, b: int) -> tuple[Tensor | None, Tensor | None]:
        """Text tokens after a feed-forward, the same for all blocks, and their key mask."""
        if self.text is None or self.text_out is None or cond.tokens is None:
            return None, None
        text = self.text_out(blocks.gelu(self.text(cond.tokens))).expand(b, -1, -1)
        return text, key_mask(cond.mask, b)


SHAPES = {
    "nano/1": CrossShape(depth=4, width=128, heads=4, patch=1),
    "tiny/1": CrossShape(depth=6, width=256, heads=4, patch=1),
    "S/1": CrossShape(depth=12, width=384, heads=6, patch=1),
    "S/2": CrossShape(depth=12, width=384, heads=6, patch=2),
    "B/1": CrossShape(depth=12, width=768, heads=12, patch=1),  # for latents of 8x8
    "B/2": CrossShape(depth=12, width=768, heads=12, patch=2),
    "L/2": CrossShape(depth=24, width=1024, heads=16, patch=2),
    "XL/2": CrossShape(depth=28, width=1152, heads=16, patch=2),  # PixArt-α
}


cross_dit = by_size("cross_dit", CrossDiT, SHAPES, "S/2")
