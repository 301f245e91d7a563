"""The codecs by name. A row is built from the facts of the data and gives a `Codec`."""

from pathline.codecs.dcae import dcae
from pathline.codecs.detok import detok
from pathline.codecs.kl import kl
from pathline.codecs.own import trained
from pathline.codecs.pixel import pixel
from pathline.codecs.rae import rae
from pathline.codecs.taesd import taef2, taesd

CODECS = {
    "pixel": pixel,
    "kl": kl,
    "dcae": dcae,
    "taesd": taesd,
    "taef2": taef2,
    "rae": rae,
    "detok": detok,
    "trained": trained,
}
