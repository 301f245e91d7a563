"""Where numbers go: `metrics.jsonl`, always. A line is {"update": n, "images": n, name: value}."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

Track = Callable[[int, int, Mapping[str, float]], None]  # update, images, values


def jsonl(file: Path, *, resumed_at: int = 0) -> Track:
    """A tracker that appends lines to `file`; lines after `resumed_at` are dropped first,
    for the resumed run will write them again."""
    if file.exists():
        kept = [line for line in file.read_text().splitlines() if _update_of(line) <= resumed_at]
        fresh = file.with_suffix(".tmp")
        fresh.write_text("".join(f"{line}\n" for line in kept))
        os.replace(fresh, file)

    def track(update: int, images: int, values: Mapping[str, float]) -> None:
        with file.open("a") as stream:
            stream.write(json.dumps({"update": update, "images": images, **values}) + "\n")

    return track


def _update_of(line: str) -> float:
    try:
        return float(json.loads(line)["update"])
    except (json.JSONDecodeError, KeyError):  # a line cut by a kill
        return float("inf")
