"""Metrics of a run: always to `metrics.jsonl`, and to further trackers, which may fail.

A line of metrics.jsonl is {"update": n, "images": n, name: value}.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pathline.files import full_disk_explained, write_whole

Track = Callable[[int, int, Mapping[str, float]], None]  # update, images, values
Warn = Callable[[str], None]
METRICS = "metrics.jsonl"


def _ignore(_: str) -> None:
    pass


class Tracker(NamedTuple):
    """A destination of numbers and images; `close` is called once, after everything else."""

    numbers: Track
    picture: Callable[[int, str, Path], None]  # update, tag as "samples/fixed", PNG file
    close: Callable[[], None]


def jsonl(file: Path, *, resumed_at: int = 0, warn: Warn = _ignore) -> Track:
    """A tracker that appends lines to `file`. Lines after `resumed_at` are dropped first, because
    the resumed run writes them again."""
    if file.exists():
        earlier = [line for line in lines(file, warn) if line["update"] <= resumed_at]
        write_whole(file, "".join(json.dumps(line) + "\n" for line in earlier))

    def track(update: int, images: int, values: Mapping[str, float]) -> None:
        line = json.dumps({"update": update, "images": images, **values}) + "\n"
        _append(file, line.encode())

    return track


def _append(file: Path, line: bytes) -> None:
    """Append the whole line or nothing: half of one would spoil the next. Raises OSError."""
    with full_disk_explained(file, len(line)), file.open("ab", buffering=0) as stream:
        start = stream.seek(0, os.SEEK_END)
        try:
            if stream.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        except OSError:
            stream.truncate(start)
            raise


def lines(file: Path, warn: Warn = _ignore) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file.

    One that can't be read, as a kill leaves it, is skipped; `warn` is called with its number.
    """
    content = file.read_bytes().splitlines() if file.is_file() else []
    for number, text in enumerate(content, start=1):
        try:
            line = json.loads(text)
            line["update"] = int(line["update"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            warn(f"{file}:{number}: this line can't be read and is left out")
            continue
        yield line


def together(
    folder: Path,
    openers: Mapping[str, Callable[[], Tracker]],
    warn: Callable[[str], None],
    *,
    resumed_at: int = 0,
) -> Tracker:
    """metrics.jsonl of the run folder and the others as one tracker.

    If another fails, when opened or later, `warn` is called and it is left out from then on.
    Lines that metrics.jsonl, the run's record, can't take now are written with the next ones;
    `close` raises OSError if it can't take them at the end either.
    """
    # The file comes first: whatever a dashboard does, the run keeps its record.
    record = jsonl(folder / METRICS, resumed_at=resumed_at, warn=warn)
    waiting: list[tuple[int, int, Mapping[str, float]]] = []
    opened: dict[str, Tracker] = {}

    # A tracker's fault is printed and never stops the training.
    def tried(name: str, after: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # whatever a tracker does, the training goes on
            warn(f"tracker {name}: {type(error).__name__}: {error}; {after}")
            return False
        return True

    # One that fails is left out for good, so that its fault is printed once and not at each log.
    def each(act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(opened.items()):
            if not tried(name, "left out from here on", lambda of=tracker: act(of)):
                del opened[name]

    def numbers(update: int, images: int, values: Mapping[str, float]) -> None:
        waiting.append((update, images, dict(values)))
        tried("jsonl", f"{len(waiting)} lines wait for the next try", write_waiting)
        each(lambda tracker: tracker.numbers(update, images, values))

    def write_waiting() -> None:
        while waiting:
            record(*waiting[0])
            del waiting[0]

    def picture(update: int, tag: str, file: Path) -> None:
        each(lambda tracker: tracker.picture(update, tag, file))

    for name, opener in openers.items():
        tried(name, "left out", lambda n=name, o=opener: opened.update({n: o()}))

    def close() -> None:
        each(lambda tracker: tracker.close())
        write_waiting()

    return Tracker(numbers, picture, close)
