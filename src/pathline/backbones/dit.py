"""DiT (arXiv 2212.09748) with the options of later work; text tokens come after the image's."""

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
from pathline.backbones.dit_shape import SHAPES, DiTShape
from pathline.backbones.sizes import by_size
from pathline.backbones.transformer import (
    Transformer,
    append,
    first_channels,
    image_tokens,
    key_mask,
    output_channels,
)
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import BlockModulation, build_modulation
from pathline.nn.positions import Table, extend_rope, rotary, sincos
from pathline.types import PLAIN_CALL, Call, Cond, Frame, Output


class Block(nn.Module):
    """Attention and feed-forward, each modulated before and gated after; the identity at first."""

    def __init__(self, shape: DiTShape) -> None:
        super().__init__()
        width = shape.width
        self.modulation = build_modulation(shape.modulation, width, 6, shape.rank)
        self.norm1 = blocks.norm(shape.norm, width)
        self.attention = Attention(width, shape.heads, qk_norm=shape.qk_norm, bias=shape.bias)
        self.norm2 = blocks.norm(shape.norm, width)
        self.mlp = blocks.feed_forward(shape.mlp, width, bias=shape.bias)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        conditioning: Float[Tensor, "b e"],
        rope: Float[Tensor, "2 *rows l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(conditioning)  # b 1 d
        y = self.attention(blocks.modulate(self.norm1(x), shift1, scale1), rope, mask)
        x = torch.addcmul(x, gate1, y)
        y = self.mlp(blocks.modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2, y)


class Final(nn.Module):
    """Modulated norm, then tokens -> patches; 0 at first."""

    def __init__(self, shape: DiTShape, outputs: int) -> None:
        super().__init__()
        self.modulation = BlockModulation(shape.width, 2)
        self.norm = blocks.norm(shape.norm, shape.width)
        self.linear = nn.Linear(shape.width, shape.patch**2 * outputs)

    def forward(
        self, x: Float[Tensor, "b l d"], conditioning: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l e"]:
        shift, scale = self.modulation(conditioning)
        return self.linear(blocks.modulate(self.norm(x), shift, scale))


class DiT(Transformer):
    """(x [B C H W], t [B], cond, call) -> Output. Tokens: the image row by row, then text."""

    shape: DiTShape

    def __init__(self, frame: Frame, shape: DiTShape) -> None:
        super().__init__(frame, shape)
        width = shape.width
        self.rows, self.columns = frame.height // shape.patch, frame.width // shape.patch
        self.shared = nn.Linear(width, 6 * width) if shape.modulation == "shared" else None
        # Trunk, and what joins tokens that skipped a part of it.
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.depth)])
        self.fuse = self.build_fuse()
        self.final = Final(shape, output_channels(frame, shape.outputs))
        # Positions of one image size: a table added to tokens, or angles for attention.
        grid, head = (self.rows, self.columns), width // shape.heads
        has_table, has_rope = shape.positions != "rope", shape.positions != "sincos"
        self.positions = Table(sincos(*grid, width)) if has_table else None
        self.rope = Table(rotary(*grid, head, theta=shape.theta)) if has_rope else None
        init_weights(self)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN_CALL,
    ) -> Output:
        """t in [0, 1]. cond: one row per image, or one for all. call: r and route are read.

        hidden, inner: the image's tokens after the last block and after the feature layer. Raises
        ValueError if x is not of the frame's size, or if the condition or the call lacks an input
        that the network was built for, or has one that it was not built for.
        """
        check_inputs(self, x, cond, call)
        conditioning = F.silu(embed_conditions(self, t, cond, call.r))  # b d
        # the residual stream stays in the dtype of the weights under autocast
        stream = self.time.up.weight.dtype
        tokens = self.patch(blocks.patchify(x, self.shape.patch)).to(stream)  # b l d
        if self.positions is not None:
            tokens = tokens + self.positions().to(stream)
        count = tokens.shape[1]
        tokens, rope, mask = self._append_text(tokens, cond)
        modulation = conditioning if self.shared is None else self.shared(conditioning)
        # A list that the step fills at the feature layer: run_blocks returns only the last tokens.
        features: list[Tensor] = []
        step = partial(self._run_block, features, modulation)
        tokens = routes.run_blocks(self, step, call.route, count, tokens, rope, mask)
        inner = features[0][:, :count].clone() if features else None
        hidden = image_tokens(tokens, count)
        patches = self.final(hidden, conditioning)
        value = blocks.unpatchify(patches, self.shape.patch, self.rows, self.columns)
        return Output(first_channels(value, self.frame.channels), hidden, inner)

    def _run_block(
        self,
        features: list[Tensor],
        modulation: Tensor,
        number: int,
        tokens: Tensor,
        rope: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The tokens after this block; those of the feature layer are appended to `features`."""
        inputs = modulation, rope, mask
        tokens = run_block(self.blocks[number], self.shape.checkpoint, tokens, *inputs)
        if number + 1 == self.shape.feature_layer:
            features.append(tokens)
        return tokens

    def _append_text(
        self, tokens: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Image tokens followed by text tokens, their rotary table and their key mask."""
        rope = None if self.rope is None else self.rope()
        if self.text is None or cond.tokens is None:
            return tokens, rope, None
        text = self.text(cond.tokens)
        # Text has no place in the picture: its tokens are not rotated.
        if rope is not None:
            rope = extend_rope(rope, text.shape[1])
        # Padding is hidden as a key only; what it computes for itself is cut off with the text.
        mask = key_mask(cond.mask, len(tokens), before=tokens.shape[1])
        return append(tokens, text), rope, mask


dit = by_size("DiT", DiT, SHAPES, "S/2")
