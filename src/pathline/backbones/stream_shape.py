"""The settings of a stream_dit, and its sizes, from a laptop's to a billion weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pathline.backbones import token_routing as routes
from pathline.backbones.sizes import Shape, check
from pathline.ranges import AtLeastOne, NotNegativeFloat, Range, Width

Positions = Literal["rope", "both"]
Modulation = Literal["shared", "block", "lowrank"]
Extrapolate = Literal["none", "rescale", "ntk"]


@dataclass(frozen=True)
class StreamShape(routes.RouteShape, Shape):
    """One stream of image and text tokens (Lumina-Image 2.0, Z-Image), for images of any size."""

    qk_norm: bool = True
    label_std: NotNegativeFloat = 1.0
    # Blocks for the image alone and as many for the text alone, before they join.
    refiners: Annotated[int, Range(0, 1000)] = 2
    positions: Positions = "rope"  # rope on queries and keys; both: a sincos table too
    theta: AtLeastOne = 256.0  # base of rope's frequencies
    # Positions in images larger than those trained on: rescale squeezes them into the range that
    # was trained, ntk slows the slow frequencies, none counts on.
    extrapolate: Extrapolate = "rescale"
    modulation: Modulation = "shared"  # adaLN: one shared projection, one per block, or of low rank
    rank: Width = 32  # of modulation=lowrank, from 1
    bias: bool = False  # in attention and feed-forward

    def __post_init__(self) -> None:
        check(self)
        routes.check_route(self)


SHAPES = {
    "nano/1": StreamShape(depth=4, width=128, heads=4, patch=1, refiners=1, positions="both"),
    "nano/2": StreamShape(depth=4, width=128, heads=4, patch=2, refiners=1, positions="both"),
    "tiny/1": StreamShape(depth=6, width=256, heads=4, patch=1, refiners=1, positions="both"),
    "tiny/2": StreamShape(depth=6, width=256, heads=4, patch=2, refiners=1, positions="both"),
    "S/1": StreamShape(depth=12, width=384, heads=6, patch=1, positions="both"),
    "S/2": StreamShape(depth=12, width=384, heads=6, patch=2, positions="both"),
    "B/1": StreamShape(depth=12, width=768, heads=12, patch=1),
    "B/2": StreamShape(depth=12, width=768, heads=12, patch=2),
    "L/1": StreamShape(depth=24, width=1024, heads=16, patch=1),
    "L/2": StreamShape(depth=24, width=1024, heads=16, patch=2),
    "XL/1": StreamShape(depth=32, width=1536, heads=12, patch=1),
    "XL/2": StreamShape(depth=32, width=1536, heads=12, patch=2),
}
