"""Codecs with published weights: loaded at their first use, with checks of sizes and values."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pathline.deferred import load_by_id, load_on_use
from pathline.dtypes import Dtype
from pathline.types import CacheInfo, Codec, Facts
from pathline.weights import DTYPES


class Description(NamedTuple):
    """What is known of a codec before its weights are read."""

    id: str
    channels: int  # of raw
    factor: int  # pixels along a side of one latent position
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    side: int | None = None  # pixels along a side of the only square it takes
    is_unit: bool = False  # its pixels are in [0, 1], otherwise in [-1, 1]


def check_fp16(dtype: Dtype, force_upcast: bool) -> None:
    """Raise ValueError for fp16 where the codec's config.json forbids it."""
    if dtype == "fp16" and force_upcast:
        raise ValueError(
            "codec.dtype=fp16 is wrong because this codec's config.json has force_upcast: in fp16 "
            "it overflows to black images. Use codec.dtype=fp32 or bf16."
        )


def pretrained_codec(
    facts: Facts,
    description: Description,
    load: Callable[[], nn.Module],
    *,
    encode: Callable[[Any, Tensor], Tensor],
    decode: Callable[[Any, Tensor], Tensor],
    dtype: Dtype,
) -> Codec:
    """A codec whose weights are read at its first use.

    load: the network in float32. encode: (network, pixels in its range and dtype) -> raw.
    decode: (network, raw float32) -> pixels in its range.
    """
    if facts.channels != 3:
        raise ValueError(
            f"data.channels={facts.channels} is wrong because this codec takes colour images. "
            "Set data.channels=3."
        )
    row = re.split("[:@]", description.id)[0]
    is_unit = description.is_unit
    network, to = load_on_use(lambda: load().eval().requires_grad_(False).to(DTYPES[dtype]))

    def encode_pixels(pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        _check_size(row, description, pixels.shape[-2], pixels.shape[-1])
        model = network()
        # Without autocast: latents must not depend on the precision of a training.
        x = pixels.float() / 255 if is_unit else pixels.float().div_(127.5).sub_(1.0)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            raw = encode(model, x.to(DTYPES[dtype])).float()
        if dtype == "fp16":  # the check waits for the device; a cache's writer checks anyway
            _check_finite(raw, row, dtype, "encoding")
        return raw

    def decode_raw(raw: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b 3 h w"]:
        model = network()
        with torch.no_grad(), torch.autocast(raw.device.type, enabled=False):
            x = decode(model, raw.float()).float()
        if dtype == "fp16":  # in the others what is not finite was so in the latents
            _check_finite(x, row, dtype, "decoding")
        x = x.mul(255) if is_unit else x.add(1.0).mul_(127.5)
        return x.round_().clamp_(0, 255).to(torch.uint8)

    # Published statistics: one number, or one for each channel.
    channels = description.channels
    mean, std = (
        torch.tensor(values).expand(channels).clone()
        for values in (description.mean, description.std)
    )
    return Codec(
        encode_pixels, decode_raw, mean, std, description.factor, channels, description.id, to
    )


def unless_default(**pairs: tuple[Any, Any]) -> dict[str, Any]:
    """For an id: each setting's (value, default), None where they are equal."""
    return {name: None if value == default else value for name, (value, default) in pairs.items()}


def _check_size(row: str, description: Description, height: int, width: int) -> None:
    side, factor = description.side, description.factor
    if side is not None and (height, width) != (side, side):
        raise ValueError(
            f"An image of {height}x{width} pixels is wrong because codec={row} takes "
            f"{side}x{side} only. Set data.size={side}."
        )
    if height % factor or width % factor:
        raise ValueError(
            f"An image of {height}x{width} pixels is wrong because codec={row} downsamples by "
            f"{factor}. Crop both sides to multiples of {factor}."
        )


def _check_finite(values: Tensor, row: str, dtype: Dtype, action: str) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"codec.dtype={dtype} is wrong because codec={row} gave numbers that are not finite "
            f"when {action}. Use codec.dtype=fp32 (or check its weights)."
        )


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
