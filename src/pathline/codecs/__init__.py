"""Pixels <-> raw latents <-> x1. A codec encodes and decodes; normalising stands here, once."""

from jaxtyping import Float
from torch import Tensor

from pathline.codecs.dcae import dcae
from pathline.codecs.detok import detok
from pathline.codecs.kl import kl
from pathline.codecs.pixel import pixel
from pathline.codecs.rae import rae
from pathline.codecs.taesd import taef2, taesd
from pathline.codecs.trained import trained
from pathline.types import Codec


def normalise(codec: Codec, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Raw latents to x1: mean 0, std 1 per channel."""
    mean, std = (s.to(raw.device).view(-1, 1, 1) for s in (codec.mean, codec.std))
    return (raw - mean) / std


def denormalise(codec: Codec, x1: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The way back from x1 to raw latents."""
    mean, std = (s.to(x1.device).view(-1, 1, 1) for s in (codec.mean, codec.std))
    return x1 * std + mean


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
