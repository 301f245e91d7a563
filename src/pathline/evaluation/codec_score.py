"""Measure a codec on images: reconstruction error, moments of latents, equivariance."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from pathline.codecs.normalise import normalise
from pathline.console import tracked
from pathline.types import Codec

SHOWN = 6  # decoded images to show


class Sums(NamedTuple):
    """Added up over batches, in float64."""

    errors: list[float]  # mean squared error of each image, of values in [0, 1]
    raw: Tensor  # [3 c]: count, sum, sum of squares of the raw latents' channels
    x1: Tensor  # [3 c]
    commute: dict[str, list[float]]  # turn -> [count, latents' squares, count, pixels' squares]
    unmeasured: dict[str, str]  # turn -> why it could not be measured
    seconds: list[float]  # of encoding, of decoding
    shown: list[Tensor]  # decoded


def measured(
    codec: Codec,
    pixels: UInt8[Tensor, "n c h w"],
    device: torch.device,
    batch: int,
    console: Console,
) -> Sums:
    """Encode and decode every batch, as it is and turned."""
    codec.decode(codec.encode(pixels[:1].to(device)))  # the weights load here, off the clock
    # Sums over batches in float64: moments, errors, seconds.
    zeros = torch.zeros(3, codec.channels, dtype=torch.float64)
    sums = Sums([], zeros, zeros.clone(), {t: [0.0] * 4 for t in TURNS}, {}, [0.0, 0.0], [])
    for part in tracked(pixels.split(batch), "measuring", console):
        x = part.to(device)
        raw, took = _timed(codec.encode, x)
        sums.seconds[0] += took
        back, took = _timed(codec.decode, raw)
        sums.seconds[1] += took
        sums.errors.extend(_error(x, back).flatten(1).mean(1).tolist())
        sums.raw.add_(_moments(raw))
        sums.x1.add_(_moments(normalise(codec, raw)))
        for turn in (turn for turn in TURNS if turn not in sums.unmeasured):
            _commute(codec, turn, x, raw, sums)
        if len(sums.shown) < SHOWN:
            sums.shown.extend(back.cpu())
    return sums


def _timed(work: Callable[[Tensor], Tensor], value: Tensor) -> tuple[Tensor, float]:
    began = time.perf_counter()
    result = work(value)
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)
    return result, time.perf_counter() - began


def _error(x: UInt8[Tensor, "b c h w"], back: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return (x.cpu().double() - back.cpu().double()).div(255).square()


def _moments(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "3 c"]:
    flat = values.cpu().double().transpose(0, 1).flatten(1)
    return torch.stack(
        [torch.full_like(flat[:, 0], flat.shape[1]), flat.sum(1), flat.square().sum(1)]
    )


def _commute(codec: Codec, turn: str, x: Tensor, raw: Tensor, sums: Sums) -> None:
    """E(Tx) against T(E(x)), and D(T(E(x))) against Tx (EQ-VAE: Kouzelis et al. 2025)."""
    turned = TURNS[turn](x.float()).round().to(torch.uint8)
    latents = TURNS[turn](raw).contiguous()
    try:
        other = codec.encode(turned)
        back = codec.decode(latents)
    except ValueError as error:  # a codec of one size only, or an odd number of positions
        sums.unmeasured[turn] = str(error)
        return
    far = (other - latents).cpu().double().square()
    near = _error(turned, back)
    counts = (far.numel(), far.sum().item(), near.numel(), near.sum().item())
    sums.commute[turn] = [a + b for a, b in zip(sums.commute[turn], counts, strict=True)]


def _flipped(x: Tensor) -> Tensor:
    return x.flip(-1)


def _rotated(x: Tensor) -> Tensor:
    return x.rot90(1, (-2, -1))


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


TURNS = {"flip": _flipped, "rotate": _rotated, "scale": _halved}
