"""Metrics of a run: always to `metrics.jsonl`, and to further trackers, which may fail.

A line of metrics.jsonl is {"update": n, "images": n, name: value}.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pathline.files import write_whole

Track = Callable[[int, int, Mapping[str, float]], None]  # update, images, values
METRICS = "metrics.jsonl"


class Tracker(NamedTuple):
    """A destination of numbers and images; `close` is called once, after everything else."""

    numbers: Track
    picture: Callable[[int, str, Path], None]  # update, tag as "samples/fixed", PNG file
    close: Callable[[], None]


def jsonl(file: Path, *, resumed_at: int = 0) -> Track:
    """A tracker that appends lines to `file`. Lines after `resumed_at` are dropped first, because
    the resumed run writes them again."""
    if file.exists():
        earlier = [json.dumps(line) + "\n" for line in lines(file) if line["update"] <= resumed_at]
        write_whole(file, "".join(earlier))

    def track(update: int, images: int, values: Mapping[str, float]) -> None:
        with file.open("a") as stream:
            stream.write(json.dumps({"update": update, "images": images, **values}) + "\n")

    return track


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; one that a kill has cut is skipped."""
    for text in file.read_text().splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
            line["update"] = int(line["update"])
        except (ValueError, KeyError, TypeError, OverflowError):
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
    metrics.jsonl is the run's record and is tried again each time.
    """
    # The file comes first: whatever a dashboard does, the run keeps its record.
    record = jsonl(folder / METRICS, resumed_at=resumed_at)
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
        after = f"update {update} is missing in {METRICS}"
        tried("jsonl", after, lambda: record(update, images, values))
        each(lambda tracker: tracker.numbers(update, images, values))

    def picture(update: int, tag: str, file: Path) -> None:
        each(lambda tracker: tracker.picture(update, tag, file))

    for name, opener in openers.items():
        tried(name, "left out", lambda n=name, o=opener: opened.update({n: o()}))
    return Tracker(numbers, picture, lambda: each(lambda tracker: tracker.close()))
