"""A codec as its cache describes it: loaded only when pictures are to be encoded or decoded."""

from collections.abc import Callable

import torch
from torch import Tensor

from pathline.deferred import load_by_id
from pathline.types import Codec, Made


def cached_codec(make: Callable[[], Codec], made: Made) -> Codec:
    """The codec that `make` builds, with the statistics of the cached latents.

    Encoding and decoding raise ValueError if it is not the codec that made them.
    """
    codec, to = load_by_id(make, made.codec, "latents of the codec")

    def encode(pixels: Tensor) -> Tensor:
        return codec().encode(pixels)

    def decode(raw: Tensor) -> Tensor:
        return codec().decode(raw)

    mean, std = torch.tensor(made.mean), torch.tensor(made.std)
    return Codec(encode, decode, mean, std, made.factor, made.channels, made.codec, to)
