"""A codec whose weights others trained: loaded at first use, its pixels checked at the doors."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pathline.dtypes import Dtype
from pathline.types import DTYPES, Codec, Facts


class Known(NamedTuple):
    """What is known of a codec before its weights are read."""

    id: str
    channels: int  # of raw
    factor: int
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    side: int | None = None  # pixels: the only square it takes
    unit: bool = False  # its pixels lie in [0, 1], otherwise in [-1, 1]


def refuse_fp16(dtype: Dtype, force_upcast: bool) -> None:
    if dtype == "fp16" and force_upcast:
        raise ValueError(
            "codec.dtype=fp16: this codec's config.json says force_upcast, in fp16 it overflows to "
            "black pictures; use codec.dtype=fp32 or bf16."
        )


def frozen(
    facts: Facts,
    known: Known,
    load: Callable[[], nn.Module],
    encode: Callable[[Any, Tensor], Tensor],
    decode: Callable[[Any, Tensor], Tensor],
    dtype: Dtype,
) -> Codec:
    """A codec whose weights are read at first use.

    load: the network in float32. encode: (network, pixels in its range and dtype) -> raw.
    decode: (network, raw float32) -> pixels in its range.
    """
    if facts.channels != 3:
        raise ValueError(
            f"This codec takes colour pictures, not {facts.channels} channel; set data.channels=3."
        )
    row = re.split("[:@]", known.id)[0]
    network, to = _lazily(load, DTYPES[dtype])

    def encode_pixels(pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        _refuse_size(row, known, pixels.shape[-2], pixels.shape[-1])
        held = network()
        x = pixels.float() / 255 if known.unit else pixels.float().div_(127.5).sub_(1.0)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            raw = encode(held, x.to(DTYPES[dtype])).float()
        if dtype == "fp16":  # to look means to wait for the device; who stores a latent looks too
            _finite(raw, row, dtype, "encoding")
        return raw

    def decode_raw(raw: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b 3 h w"]:
        held = network()
        with torch.no_grad(), torch.autocast(raw.device.type, enabled=False):
            x = decode(held, raw.float()).float()
        if dtype == "fp16":  # in the others what is not finite came in so
            _finite(x, row, dtype, "decoding")
        x = x.mul(255) if known.unit else x.add(1.0).mul_(127.5)
        return x.round_().clamp_(0, 255).to(torch.uint8)

    mean, std = (torch.tensor(s).expand(known.channels).clone() for s in (known.mean, known.std))
    sizes = known.factor, known.channels
    return Codec(encode_pixels, decode_raw, mean, std, *sizes, known.id, to)


def _lazily(
    load: Callable[[], nn.Module], dtype: torch.dtype
) -> tuple[Callable[[], nn.Module], Callable[[torch.device], None]]:
    """(the network, loaded once; a function that says where it runs)."""
    held: list[nn.Module] = []
    place = [torch.device("cpu")]

    def network() -> nn.Module:
        if not held:
            held.append(load().eval().requires_grad_(False).to(place[0], dtype))
        return held[0]

    def to(device: torch.device) -> None:
        place[0] = device
        for loaded in held:
            loaded.to(device)

    return network, to


def _refuse_size(row: str, known: Known, height: int, width: int) -> None:
    if known.side is not None and (height, width) != (known.side, known.side):
        raise ValueError(
            f"A picture of {height}x{width} pixels: codec={row} takes {known.side}x{known.side} "
            f"only; take pictures of that size (data.size={known.side})."
        )
    if height % known.factor or width % known.factor:
        raise ValueError(
            f"A picture of {height}x{width} pixels: codec={row} turns {known.factor}x"
            f"{known.factor} pixels into one position; crop both sides to multiples of "
            f"{known.factor}."
        )


def _finite(values: Tensor, row: str, dtype: Dtype, what: str) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"codec={row} gave numbers that are not finite when {what} in {dtype}; "
            "use codec.dtype=fp32 (or check its weights)."
        )
