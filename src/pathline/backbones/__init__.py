"""Networks by name. A row is built from a Frame: (x, t, cond, r) -> Output."""

from pathline.backbones.dit import dit

BACKBONES = {"dit": dit}
