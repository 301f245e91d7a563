"""Device, precision and random generators of a process, decided in one place."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch

from pathline.errors import is_out_of_memory
from pathline.weights import DTYPES

DEVICES = ("cpu", "cuda", "mps")


class Precision(NamedTuple):
    """The number format of a training's arithmetic; weights stay fp32."""

    name: str  # fp32, bf16, fp16
    reason: str  # why this one, for the log
    autocast: Callable[[], AbstractContextManager]
    scaler: torch.amp.GradScaler | None  # of fp16's gradients

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" takes CUDA, then MPS, then the CPU.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # A tensor is the test: torch.device accepts an index or build that does not exist.
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        # torch lists all devices it was ever built for; three of them are ours.
        reason = str(error).splitlines()[0].rstrip(".")
        if name.partition(":")[0] not in DEVICES:
            reason = f"a device is one of {', '.join(DEVICES)}, with a number as in cuda:1"
        raise ValueError(f"device={name} can't be used: {reason}. Try --device auto.") from None
    return device


def product_rate(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> float:
    """Rate of square matrix products, in floating-point operations a second.

    size: of a side; None: the size at which this device is fastest, by trying.
    """
    seconds = partial(product_seconds, device, dtype)
    return 2 * size**3 / seconds(size) if size else best_rate(seconds)


def best_rate(seconds: Callable[[int], float], *, first: int = 512, last: int = 16384) -> float:
    """The rate of the products that fill a device: sizes double until the rate stops rising.

    seconds: of one product of a size. Small products leave most of a large GPU idle and show a
    fraction of its rate. A product that takes a millisecond fills any device, so that a slow one is
    measured at the first size alone.
    """
    best, size = 0.0, first
    while True:
        duration = seconds(size)
        rate = 2 * size**3 / duration
        rises = rate > 1.05 * best
        best = max(best, rate)
        if not rises or duration > 1e-3 or size >= last:
            return best
        size *= 2


def product_seconds(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Seconds of one product of two size × size matrices: the best of six rounds of four."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    # The best round, as others may load the machine; the clock is read on an idle device.
    for _ in range(6):
        finish(device)
        start = time.perf_counter()
        for _ in range(4):
            torch.mm(a, a)
        finish(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return best


def finish(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def pick_precision(setting: str, device: torch.device) -> Precision:
    """fp32, bf16, fp16, or "auto": bf16 where large products run 1.3 times faster in it.

    fp16 is never picked by itself; it comes with a loss scaler. Small networks on a CPU are another
    matter: `team.measured_precision`.
    """
    if setting != "auto":
        return named_precision(setting, device)
    single, half = (product_rate(device, DTYPES[name]) for name in ("fp32", "bf16"))
    reason = f"measured: fp32 {single / 1e9:.0f} GFLOP/s, bf16 {half / 1e9:.0f} GFLOP/s"
    return named_precision("bf16" if half > 1.3 * single else "fp32", device, reason)


def named_precision(name: str, device: torch.device, reason: str = "as set") -> Precision:
    """The precision of this name. Raises ValueError for other names than fp32, bf16, fp16."""
    if name not in DTYPES:
        raise ValueError(
            f"train.precision={name} is no number format. Set one of auto, {', '.join(DTYPES)}."
        )
    scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None
    if name == "fp32":
        return Precision(name, reason, nullcontext, None)
    return Precision(name, reason, partial(torch.autocast, device.type, DTYPES[name]), scaler)
