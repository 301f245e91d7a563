"""The backbones by name. A row is built from a Frame: (x, t, cond, call) -> Output."""

from pathline.backbones.cross_dit import cross_dit
from pathline.backbones.ddt import ddt
from pathline.backbones.dit import dit
from pathline.backbones.stream_dit import stream_dit
from pathline.types import Row

BACKBONES = {
    "dit": dit,
    "cross_dit": cross_dit,
    "stream_dit": stream_dit,
    "ddt": Row(ddt, gives=("encoder",)),
}
