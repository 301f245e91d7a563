"""What a stream_dit is made of, and its sizes, from a laptop's to a billion weights."""

from dataclasses import dataclass
from typing import Literal

from pathline.backbones import token_routing as routes
from pathline.backbones.sizes import check
from pathline.backbones.token_routing import Routing

Positions = Literal["rope", "both"]
Modulation = Literal["shared", "block", "lowrank"]
Extrapolate = Literal["none", "rescale", "ntk"]
CHOICES = {
    "positions": Positions,
    "modulation": Modulation,
    "extrapolate": Extrapolate,
    "route": Routing,
}


@dataclass(frozen=True)
class StreamShape:
    """What a stream_dit is made of, whatever the data. The settings are explained there."""

    depth: int
    width: int
    heads: int
    patch: int
    refiners: int = 2
    positions: Positions = "rope"
    theta: float = 256.0
    extrapolate: Extrapolate = "rescale"
    modulation: Modulation = "shared"
    rank: int = 32
    qk_norm: bool = True
    bottleneck: int = 0
    time_scale: float = 1000.0
    label_std: float = 1.0
    takes_r: bool = False
    bias: bool = False
    checkpoint: bool = False
    route: Routing = "none"
    route_share: float | None = None
    route_before: int = 2
    route_after: int = 2
    path_drop: float = 0.05

    def __post_init__(self) -> None:
        check(self, ("rank",), CHOICES)
        if self.refiners < 0:
            raise ValueError(f"refiners must be at least 0, got {self.refiners}.")
        routes.refuse(self)


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
