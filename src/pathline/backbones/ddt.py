"""Decoupled transformer (DDT, arXiv 2504.05741): a condition encoder and a velocity decoder.

The encoder is a DiT; each block of the decoder reads x, and its modulation the encoder's tokens.
Neighbouring steps of sampling may share the encoder's tokens: see `encoder_sharing`.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.conditioning import NoFinal, run_block, zero_modulations
from pathline.backbones.dit import DiT
from pathline.backbones.dit_shape import BlockShape, DiTShape, Mlp, Norm, Positions
from pathline.backbones.sizes import by_size, check
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import BlockModulation, build_modulation
from pathline.ranges import Depth
from pathline.types import PLAIN_CALL, Call, Cond, Frame, Output


@dataclass(frozen=True)
class DDTShape(BlockShape):
    """Decoupled transformer (arXiv 2504.05741): a condition encoder, a velocity decoder.

    depth: blocks of the encoder. The other settings are those of dit, for both halves.
    """

    qk_norm: bool = True
    norm: Norm = "rms"
    mlp: Mlp = "swiglu"
    positions: Positions = "both"
    decoder: Depth = 4  # blocks of the decoder, from 1

    def __post_init__(self) -> None:
        check(self)

    def encoder(self) -> DiTShape:
        """The encoder's, which is a DiT."""
        return DiTShape(**{f.name: getattr(self, f.name) for f in fields(BlockShape)})


class Block(nn.Module):
    """DiT's block with a modulation for each token; the identity at first."""

    def __init__(self, shape: DDTShape) -> None:
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
        conditioning: Float[Tensor, "b l e"],
        rope: Float[Tensor, "2 l k"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        parts = (part.view_as(x) for part in self.modulation(conditioning.flatten(0, 1)))
        shift1, scale1, gate1, shift2, scale2, gate2 = parts  # b l d
        y = self.attention(torch.addcmul(shift1, self.norm1(x), 1 + scale1), rope)
        x = torch.addcmul(x, gate1, y)
        y = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, y)


class Decoder(nn.Module):
    """Patches of x -> patches of velocity, each token with its own conditioning; 0 at first."""

    def __init__(self, channels: int, shape: DDTShape) -> None:
        super().__init__()
        width, outputs = shape.width, shape.patch**2 * channels
        self.patch = blocks.patch_embedding(outputs, shape.bottleneck, width)
        self.shared = nn.Linear(width, 6 * width) if shape.modulation == "shared" else None
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.decoder)])
        self.modulation = BlockModulation(width, 2)
        self.norm = blocks.norm(shape.norm, width)
        self.final = nn.Linear(width, outputs)
        self.checkpoint = shape.checkpoint
        # Xavier first, then zeros: the decoder begins with output 0, its blocks as the identity.
        blocks.xavier(self)
        nn.init.zeros_(self.final.weight)
        if self.shared is not None:
            nn.init.zeros_(self.shared.weight)
        zero_modulations(self)

    def forward(
        self,
        patches: Float[Tensor, "b l c"],
        conditioning: Float[Tensor, "b l d"],
        positions: Float[Tensor, "l d"] | None,
        rope: Float[Tensor, "2 l k"] | None,
    ) -> Float[Tensor, "b l c"]:
        tokens = self.patch(patches).to(conditioning.dtype)
        tokens = tokens if positions is None else tokens + positions.to(tokens.dtype)
        modulation = conditioning if self.shared is None else self.shared(conditioning)
        for block in self.blocks:
            tokens = run_block(block, self.checkpoint, tokens, modulation, rope)
        shift, scale = (x.view_as(tokens) for x in self.modulation(conditioning.flatten(0, 1)))
        return self.final(torch.addcmul(shift, self.norm(tokens), 1 + scale))


class DDT(nn.Module):
    """(x [B C H W], t [B], cond, call) -> Output, whose hidden states a later call may reuse."""

    has_encoder = True

    def __init__(self, frame: Frame, shape: DDTShape) -> None:
        super().__init__()
        self.frame, self.shape, self.takes_r = frame, shape, shape.takes_r
        self.encoder = DiT(frame, shape.encoder())
        self.encoder.add_module("final", NoFinal(shape.patch**2 * frame.channels))
        self.decoder = Decoder(frame.channels, shape)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN_CALL,
    ) -> Output:
        """call: r and hidden are read; hidden are the encoder's tokens at an earlier t, which is
        not run then. The decoder has its own embedding of t. Raises ValueError as DiT does.
        """
        encoder, hidden, r = self.encoder, call.hidden, call.r
        if hidden is None:
            hidden = encoder(x, t, cond, call).hidden
        # The decoder knows the present time even where the encoder's tokens are of an earlier one.
        time = encoder.time(t)
        if encoder.interval is not None and r is not None:
            time = time + encoder.interval(r - t)
        # Tokens of the decoder are those of the encoder's grid and share its positions.
        positions = None if encoder.positions is None else encoder.positions()
        rope = None if encoder.rope is None else encoder.rope()
        patches = blocks.patchify(x, self.shape.patch)
        patches = self.decoder(patches, F.silu(hidden + time[:, None]), positions, rope)
        value = blocks.unpatchify(patches, self.shape.patch, encoder.rows, encoder.columns)
        return Output(value, hidden)


SHAPES = {
    "S/2": DDTShape(depth=8, decoder=4, width=384, heads=6, patch=2),
    "B/2": DDTShape(depth=8, decoder=4, width=768, heads=12, patch=2),
    "L/2": DDTShape(depth=20, decoder=4, width=1024, heads=16, patch=2),
    "XL/2": DDTShape(depth=22, decoder=6, width=1152, heads=16, patch=2),
}

ddt = by_size("DDT", DDT, SHAPES, "S/2")
