"""No codec at all: the raw latent is the image in [-1, 1]."""

from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pathline.ranges import PositiveFloat, Range
from pathline.types import Codec, Facts


def encode(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """uint8 images to [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)


def decode(raw: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """[-1, 1] to uint8; values outside are clipped."""
    return raw.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def pixel(
    facts: Facts, *, mean: Annotated[float, Range(-1, 1)] = 0.0, std: PositiveFloat = 1.0
) -> Codec:
    """Images as they are. mean, std: of the pixels in [-1, 1], the same for every channel."""
    c = facts.channels
    # mean and std normalise raw latents and change none, so they are no part of the id.
    return Codec(encode, decode, torch.full((c,), mean), torch.full((c,), std), 1, c, "pixel")
