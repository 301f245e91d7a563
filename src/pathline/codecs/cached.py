"""A codec as its cache knows it: looked for only when pictures are to be encoded or decoded."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, device

from pathline.types import Codec, Made


def stored(make: Callable[[], Codec], made: Made) -> Codec:
    """The codec that `make` builds, with the statistics of what it made.

    Encoding and decoding raise ValueError if the codec that is found is another.
    """
    where: list[device] = []

    @cache
    def found() -> Codec:
        codec = make()
        if codec.id != made.codec:
            raise ValueError(
                f"The latents were made by the codec {made.codec!r}, but the settings name "
                f"{codec.id!r}: take the codec that made them, or run pathline preprocess again."
            )
        if where and codec.to:
            codec.to(where[-1])
        return codec

    def encode(pixels: Tensor) -> Tensor:
        return found().encode(pixels)

    def decode(raw: Tensor) -> Tensor:
        return found().decode(raw)

    mean, std = torch.tensor(made.mean), torch.tensor(made.std)
    to = partial(list.append, where)
    return Codec(encode, decode, mean, std, made.factor, made.channels, made.codec, to)
