"""A codec as its cache describes it: loaded only when pictures are to be encoded or decoded."""

from collections.abc import Callable

import torch
from torch import Tensor

from pathline.deferred import load_by_id
from pathline.types import CacheInfo, Codec


def cached_codec(make: Callable[[], Codec], info: CacheInfo) -> Codec:
    """The codec that `make` builds, with the statistics of the cached latents.

    Encoding and decoding raise ValueError if it is not the codec that made them.
    """
    codec, to = load_by_id(make, info.codec, "latents of the codec")

    def encode(pixels: Tensor) -> Tensor:
        return codec().encode(pixels)

    def decode(raw: Tensor) -> Tensor:
        return codec().decode(raw)

    mean, std = torch.tensor(info.mean), torch.tensor(info.std)
    return Codec(encode, decode, mean, std, info.factor, info.channels, info.codec, to)
