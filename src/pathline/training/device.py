"""Device, precision and chance of a process: decided here and nowhere else."""

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch

from pathline.types import DTYPES


class Precision(NamedTuple):
    name: str
    why: str
    autocast: Callable[[], AbstractContextManager]
    scaler: torch.amp.GradScaler | None


def pick_device(asked: str) -> torch.device:
    """The device asked for; "auto" takes CUDA, then MPS, then the CPU."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"The device {asked!r} can't be used: {reason} Try --device auto."
        ) from None
    return device


def product_rate(device: torch.device, dtype: torch.dtype, *, size: int = 512) -> float:
    """Matrix-product rate in floating-point operations a second: best of a few short rounds."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        _finish(device)
        start = time.perf_counter()
        for _ in range(4):
            torch.mm(a, a)
        _finish(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * size**3 / best


def pick_precision(asked: str, device: torch.device) -> Precision:
    """fp32, bf16, fp16, or "auto": by measurement, bf16 where its products run 1.3 times faster.

    fp16 is never picked by itself; it comes with a loss scaler.
    """
    why = "as asked"
    if asked == "auto":
        size = 512 if device.type == "cpu" else 4096
        single, half = (product_rate(device, DTYPES[n], size=size) for n in ("fp32", "bf16"))
        asked = "bf16" if half > 1.3 * single else "fp32"
        why = f"measured: fp32 {single / 1e9:.0f} GFLOP/s, bf16 {half / 1e9:.0f} GFLOP/s"
    if asked not in DTYPES:
        raise ValueError(f"There is no precision {asked!r}. There are: auto, {', '.join(DTYPES)}.")
    scaler = torch.amp.GradScaler(device.type) if asked == "fp16" else None
    if asked == "fp32":
        return Precision(asked, why, nullcontext, None)
    return Precision(asked, why, partial(torch.autocast, device.type, DTYPES[asked]), scaler)


def lane_rng(seed: int, update: int, lane: int, device: torch.device) -> torch.Generator:
    """The chance of one micro-batch, a function of its place alone.

    lane = micro-batch × world size + rank, so two processes draw what one draws with two
    accumulated micro-batches, and a resumed run draws what it would have drawn.
    """
    digest = hashlib.blake2b(f"{seed}/{update}/{lane}".encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
