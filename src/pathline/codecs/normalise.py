"""Raw latents <-> x1: the codec's own mean and standard deviation per channel."""

from jaxtyping import Float
from torch import Tensor

from pathline.types import Codec


def normalise(codec: Codec, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Raw latents to x1: mean 0, std 1 per channel."""
    mean, std = (s.to(raw.device).view(-1, 1, 1) for s in (codec.mean, codec.std))
    return (raw - mean) / std


def denormalise(codec: Codec, x1: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """x1 back to raw latents."""
    mean, std = (s.to(x1.device).view(-1, 1, 1) for s in (codec.mean, codec.std))
    return x1 * std + mean
