"""Time, memory and room of a device: what `pathline bench` measures with."""

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

from pathline.training.players import Lane, Player, update

GIB = 1 << 30
GROWN = 64 << 20  # bytes two batches must differ by, to judge a third by them
ROOM = 0.5  # share of a computer's free memory that batches may be tried in
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
    """Of the time of an update; `optimizer` has clipping and averages too."""

    data: float
    forward: float
    backward: float
    optimizer: float


class Meter(NamedTuple):
    """`around(work)` gives the peak in bytes and the seconds; `limit` is the room there is."""

    around: Callable[[Callable[[], object]], tuple[int, float]]
    limit: int


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n that fits, within a sixteenth: doubling, then bisection. 0 if 1 does not."""
    good, bad = 0, 0
    while not bad and good < most:
        tried = min(2 * good or 1, most)
        good, bad = (tried, 0) if fits(tried) else (good, tried)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def search(
    trial: Callable[[int], object], gauge: Meter, *, most: int, patience: float
) -> tuple[int, int]:
    """The largest batch whose trial fits, and the largest that was run.

    A batch whose trial would take more than `patience` seconds is judged by the memory of smaller
    ones instead, once these differ enough. Raises ValueError if not even one picture fits.
    """
    seen: dict[int, tuple[int, float]] = {}  # batch: bytes, seconds

    def attempt(batch: int) -> bool:
        try:
            seen[batch] = gauge.around(lambda: trial(batch))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False
        return seen[batch][0] <= gauge.limit

    def fits(batch: int) -> bool:
        few, many = min(seen, default=0), max(seen, default=0)
        grown = seen[many][0] - seen[few][0] if seen else 0
        if grown < GROWN or seen[many][1] * batch / many <= patience:
            return attempt(batch)
        return seen[many][0] + grown / (many - few) * (batch - many) <= gauge.limit

    found = largest(fits, most)
    if not found:
        raise ValueError(
            f"Not even one picture fits in {gauge.limit / GIB:.1f} GiB; take a smaller network."
        )
    return found, max(batch for batch in seen if batch <= found)


def meter(device: torch.device) -> Meter:
    """Of the card's memory as torch hands it out, or of this process on a CPU."""
    if device.type == "cuda":
        peak = partial(torch.cuda.max_memory_allocated, device)
        clear = partial(torch.cuda.reset_peak_memory_stats, device)
        limit = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    else:
        peak, clear, limit = _resident, _forget, int(ROOM * _free())

    def around(work: Callable[[], object]) -> tuple[int, float]:
        clear()
        took, _ = timed(work, device)
        return peak(), took

    return Meter(around, limit)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a work with all it started on the device, and its answer."""
    finish(device)
    begun = time.perf_counter()
    answer = work()
    finish(device)
    return time.perf_counter() - begun, answer


def turns(
    works: Mapping[str, Callable[[], Any]], device: torch.device, span: float
) -> dict[str, list[tuple[float, Any]]]:
    """Each work's (seconds, answer) in every round: all take turns, so that noise meets all.

    One round is not counted; then two, or more within `span` seconds.
    """
    for work in works.values():
        work()
    found: dict[str, list[tuple[float, Any]]] = {name: [] for name in works}
    end, rounds = time.perf_counter() + span, 0
    while rounds < 2 or time.perf_counter() < end:
        for name, work in works.items():
            found[name].append(timed(work, device))
        rounds += 1
    return found


def split(
    player: Player, feed: Callable[[], Sequence[Lane]], device: torch.device, rounds: int = 5
) -> Shares:
    """Where the time of an update of one lane goes, as shares of the medians."""
    own, marks, order = player.loss, {}, ("start", *Shares.__annotations__)

    def mark(name: str, *_: Any) -> None:
        finish(device)
        marks[name] = time.perf_counter()

    def loss(*given: Any) -> Any:
        answer = own(*given)
        mark("forward")
        return answer

    def one() -> list[float]:
        mark("start")
        lanes = feed()
        mark("data")
        update(player, lanes, 0)
        mark("optimizer")
        times = [marks[name] for name in order]
        return [late - early for early, late in pairwise(times)]

    learnt = [p for p in player.network.parameters() if p.requires_grad]
    handle = register_multi_grad_hook(learnt, partial(mark, "backward"))
    player.loss = loss
    try:
        found = [one() for _ in range(rounds)]
    finally:
        player.loss = own
        handle.remove()
    parts = [median(column) for column in zip(*found, strict=True)]
    data, forward, backward, optimizer = (part / sum(parts) for part in parts)
    return Shares(data=data, forward=forward, backward=backward, optimizer=optimizer)


def peak_rate(card: str, precision: str) -> float | None:
    """Operations a second of the card's data sheet at half precision, or None if not known."""
    if precision == "fp32":
        return None
    return next((rate for name, rate in PEAKS.items() if name in card), None)


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _forget() -> None:
    """Begin a new peak, where the system can (Linux)."""
    with suppress(OSError):
        RESET.write_text("5")


def _resident() -> int:
    """The most memory this process has had since `_forget`, or ever where there is no such."""
    if STATUS.is_file():
        return _kilobytes(STATUS, "VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _free() -> int:
    """Memory that is free or this process's own."""
    if FREE.is_file():
        return _kilobytes(FREE, "MemAvailable") + _kilobytes(STATUS, "VmRSS")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kilobytes(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10
