"""The settings of a DiT, and the published sizes."""

from dataclasses import dataclass
from typing import Literal

from pathline.backbones import token_routing as routes
from pathline.backbones.sizes import Shape, check
from pathline.ranges import AtLeastOne, NotNegative, Width

Norm = Literal["layer", "rms"]
Mlp = Literal["gelu", "swiglu"]
Positions = Literal["sincos", "rope", "both"]
Modulation = Literal["block", "shared", "lowrank"]


@dataclass(frozen=True)
class BlockShape(Shape):
    """What the blocks of a DiT and of a DDT are made of."""

    norm: Norm = "layer"  # LayerNorm or RMSNorm before attention and feed-forward
    mlp: Mlp = "gelu"  # the feed-forward
    positions: Positions = "sincos"  # sincos table on tokens, rope on queries and keys
    theta: AtLeastOne = 256.0  # base of rope's frequencies
    modulation: Modulation = "block"  # adaLN: a projection per block, one shared, or of low rank
    rank: Width = 32  # of modulation=lowrank, from 1
    bias: bool = True  # in attention and feed-forward


@dataclass(frozen=True)
class DiTShape(routes.RouteShape, BlockShape):
    """DiT (arXiv 2212.09748) with later work's flags; text joins as further tokens."""

    # Channels that the network gives, at least those of x; the first are the value (official
    # weights have twice as many). null: as many as x has.
    outputs: Width | None = None
    feature_layer: NotNegative = 0  # the block, from 1, whose tokens loss terms read; 0: the last

    def __post_init__(self) -> None:
        check(self)
        if self.feature_layer > self.depth:
            raise ValueError(
                f"backbone.feature_layer={self.feature_layer} is wrong because there are "
                f"{self.depth} blocks. Set 1 to {self.depth}, or 0 for the last."
            )
        routes.check_route(self, self.feature_layer)


SHAPES = {
    f"{name}/{patch}": DiTShape(depth=depth, width=width, heads=heads, patch=patch)
    for name, depth, width, heads in (
        ("S", 12, 384, 6),
        ("B", 12, 768, 12),
        ("L", 24, 1024, 16),
        ("XL", 28, 1152, 16),
    )
    for patch in (2, 4, 8)
}
