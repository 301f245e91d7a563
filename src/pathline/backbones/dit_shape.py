"""What a DiT is made of, and the published sizes."""

from dataclasses import dataclass
from typing import Literal

from pathline.backbones import token_routing as routes
from pathline.backbones.sizes import check
from pathline.backbones.token_routing import Routing

Norm = Literal["layer", "rms"]
Mlp = Literal["gelu", "swiglu"]
Positions = Literal["sincos", "rope", "both"]
Modulation = Literal["block", "shared", "lowrank"]
CHOICES = {
    "norm": Norm,
    "mlp": Mlp,
    "positions": Positions,
    "modulation": Modulation,
    "route": Routing,
}


@dataclass(frozen=True)
class DiTShape:
    """What a DiT is made of, whatever the data. The settings are explained at `dit`."""

    depth: int
    width: int
    heads: int
    patch: int
    norm: Norm = "layer"
    mlp: Mlp = "gelu"
    qk_norm: bool = False
    positions: Positions = "sincos"
    theta: float = 256.0
    modulation: Modulation = "block"
    rank: int = 32
    bottleneck: int = 0
    outputs: int | None = None
    time_scale: float = 1000.0
    label_std: float = 0.02
    takes_r: bool = False
    bias: bool = True
    checkpoint: bool = False
    look: int = 0
    route: Routing = "none"
    route_share: float | None = None
    route_before: int = 2
    route_after: int = 2
    path_drop: float = 0.05

    def __post_init__(self) -> None:
        check(self, ("rank",), CHOICES)
        if not 0 <= self.look <= self.depth:
            raise ValueError(f"look={self.look} is none of the {self.depth} blocks; 0 is no block.")
        routes.refuse(self, self.look)


SHAPES = {
    "S/2": DiTShape(depth=12, width=384, heads=6, patch=2),
    "S/4": DiTShape(depth=12, width=384, heads=6, patch=4),
    "S/8": DiTShape(depth=12, width=384, heads=6, patch=8),
    "B/2": DiTShape(depth=12, width=768, heads=12, patch=2),
    "B/4": DiTShape(depth=12, width=768, heads=12, patch=4),
    "B/8": DiTShape(depth=12, width=768, heads=12, patch=8),
    "L/2": DiTShape(depth=24, width=1024, heads=16, patch=2),
    "L/4": DiTShape(depth=24, width=1024, heads=16, patch=4),
    "L/8": DiTShape(depth=24, width=1024, heads=16, patch=8),
    "XL/2": DiTShape(depth=28, width=1152, heads=16, patch=2),
    "XL/4": DiTShape(depth=28, width=1152, heads=16, patch=4),
    "XL/8": DiTShape(depth=28, width=1152, heads=16, patch=8),
}
