"""Seconds, bytes and operations of a training on a device: what `pathline bench` measures with."""

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypedDict

import torch
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pathline.backbones.token_routing import route_sampler
from pathline.objectives.with_route import with_route
from pathline.parts import Parts
from pathline.training.device import finish
from pathline.training.players import Lane, Player, update
from pathline.types import Batch

GIB = 1 << 30
LEAST_GROWTH = 64 << 20  # bytes two batches must differ by, to predict a third from them
MEMORY_SHARE = 0.5  # of a computer's free memory, that batches are tried in
STATUS, RESET, FREE = (Path(f"/proc/{p}") for p in ("self/status", "self/clear_refs", "meminfo"))
# Dense products of bf16 (fp16 before Ampere), from the makers' data sheets; first match counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "NVIDIA L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}


class Shares(TypedDict):
    """Shares of the time of an update; `optimizer` includes clipping and averages."""

    data: float
    forward: float
    backward: float
    optimizer: float


class Meter(NamedTuple):
    """`measure(work)` gives the peak in bytes and the seconds; `limit` is the memory there is."""

    measure: Callable[[Callable[[], object]], tuple[int, float]]
    limit: int  # bytes


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n that fits, within a sixteenth: doubling, then bisection. 0 if 1 does not."""
    good, bad = 0, 0
    while not bad and good < most:
        n = min(2 * good or 1, most)
        good, bad = (n, 0) if fits(n) else (good, n)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def largest_batch(
    trial: Callable[[int], object], meter: Meter, *, most: int, patience: float
) -> tuple[int, int]:
    """The largest batch whose trial fits, and the largest that was run.

    A batch whose trial would take more than `patience` seconds is not run: its memory is predicted
    from smaller ones, once these differ enough. Raises ValueError if not even one image fits.
    """
    runs: dict[int, tuple[int, float]] = {}  # batch: bytes, seconds

    def run(batch: int) -> bool:
        try:
            runs[batch] = meter.measure(lambda: trial(batch))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False
        return runs[batch][0] <= meter.limit

    def fits(batch: int) -> bool:
        # Memory grows linearly with the batch: beyond `patience` it is predicted.
        few, many = min(runs, default=0), max(runs, default=0)
        growth = runs[many][0] - runs[few][0] if runs else 0
        if growth < LEAST_GROWTH or runs[many][1] * batch / many <= patience:
            return run(batch)
        return runs[many][0] + growth / (many - few) * (batch - many) <= meter.limit

    batch = largest(fits, most)
    if not batch:
        raise ValueError(
            f"train.batch=1 does not fit in {meter.limit / GIB:.1f} GiB. Take a smaller network "
            "or data.size."
        )
    return batch, max(n for n in runs if n <= batch)


def memory_meter(device: torch.device) -> Meter:
    """Of the card's memory as torch hands it out, or of this process on a CPU."""
    if device.type == "cuda":
        peak = partial(torch.cuda.max_memory_allocated, device)
        clear = partial(torch.cuda.reset_peak_memory_stats, device)
        # What is free on the card, and what torch has reserved and can use again.
        limit = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    else:
        peak, clear, limit = _peak_memory, _reset_peak, int(MEMORY_SHARE * _free_memory())

    def measure(work: Callable[[], object]) -> tuple[int, float]:
        clear()
        seconds, _ = timed(work, device)
        return peak(), seconds

    return Meter(measure, limit)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a work with all it started on the device, and its result."""
    finish(device)
    start = time.perf_counter()
    result = work()
    finish(device)
    return time.perf_counter() - start, result


def in_turns(
    works: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float
) -> dict[str, list[tuple[float, Any]]]:
    """Each work's (seconds, result) in every round. All take turns, so that noise meets all.

    One round is not counted; then two, or more within `seconds`.
    """
    for work in works.values():
        work()
    rounds: dict[str, list[tuple[float, Any]]] = {name: [] for name in works}
    end, count = time.perf_counter() + seconds, 0
    while count < 2 or time.perf_counter() < end:
        for name, work in works.items():
            rounds[name].append(timed(work, device))
        count += 1
    return rounds


def shares_of_update(
    player: Player, feed: Callable[[], Sequence[Lane]], device: torch.device, rounds: int = 5
) -> Shares:
    """How the time of an update of one lane is shared among its phases, by the medians."""
    plain_loss, marks, order = player.loss, {}, ("start", *Shares.__annotations__)

    # Kernels run asynchronously: a mark waits for the device.
    def mark(name: str, *_: Any) -> None:
        finish(device)
        marks[name] = time.perf_counter()

    def loss(*inputs: Any) -> Any:
        result = plain_loss(*inputs)
        mark("forward")
        return result

    def durations() -> list[float]:
        mark("start")
        lanes = feed()
        mark("data")
        update(player, lanes, 0)
        mark("optimizer")
        times = [marks[name] for name in order]
        return [late - early for early, late in pairwise(times)]

    # The backward pass is over when the last weight has its gradient.
    weights = [p for p in player.network.parameters() if p.requires_grad]
    handle = register_multi_grad_hook(weights, partial(mark, "backward"))
    player.loss = loss
    try:
        rows = [durations() for _ in range(rounds)]
    finally:
        player.loss = plain_loss
        handle.remove()
    medians = [median(column) for column in zip(*rows, strict=True)]
    data, forward, backward, optimizer = (part / sum(medians) for part in medians)
    return Shares(data=data, forward=forward, backward=backward, optimizer=optimizer)


def operations(parts: Parts, batch: Batch) -> float:
    """Floating-point operations of forward and backward per image, counted.

    Attention counts as two full products; what a backbone recomputes to save memory counts too.
    """
    rng = torch.Generator(batch.x1.device).manual_seed(0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        learn = with_route(parts.objective.loss, route_sampler(parts.network.backbone))
        loss, _ = learn(parts.network, batch, rng, parts.draw, parts.criterion)
        loss.backward()
    parts.network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch.x1)


def data_sheet_rate(card: str, precision: str) -> float | None:
    """Operations a second of the card's data sheet at half precision; None for other cards."""
    if precision == "fp32":
        return None
    return next((rate for name, rate in PEAKS.items() if name in card), None)


def _reset_peak() -> None:
    """Begin a new peak, where the system can (Linux)."""
    with suppress(OSError):
        RESET.write_text("5", encoding="utf-8")


def _peak_memory() -> int:
    """The most memory of this process since `_reset_peak`, or ever on other systems."""
    if STATUS.is_file():
        return _kilobytes(STATUS, "VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _free_memory() -> int:
    """Memory that is free or this process's own."""
    if FREE.is_file():
        return _kilobytes(FREE, "MemAvailable") + _kilobytes(STATUS, "VmRSS")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kilobytes(file: Path, name: str) -> int:
    line = next(line for line in file.read_text("utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10
