"""All readable pictures of a source at one size, decoded once, in memory or a temporary file."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pathline.data.sources.source import UNDECODED, Source
from pathline.data.transforms import fit, recolour
from pathline.types import Example

Progress = Callable[[Sequence[Any]], Iterable[Any]]
CHUNK = 32  # pictures a thread decodes at a time
AHEAD = 64  # chunks given out before the first is taken back
SHOWN = 5  # unreadable pictures named in an error


class Pictures(NamedTuple):
    """The readable pictures of a source, row by row."""

    pixels: Tensor  # uint8 [N C H W]
    labels: Tensor | None  # int64 [N]
    captions: list[str | None] | None  # None for a picture without one
    keys: list[str]
    names: tuple[str, ...]  # of the classes
    bad: list[tuple[str, str]]  # ("row 7", reason with the file's name) of what can't be read


def load(
    source: Source,
    *,
    size: int,
    channels: int,
    max_bad: float = 0.01,
    memory_gb: float = 8.0,
    report: Path | None = None,
    progress: Progress = iter,
) -> Pictures:
    """Decode every picture, cut square and scaled to size × size.

    What can't be read is left out and listed, one JSON object a line, in `report`. Raises
    ValueError if that is more than the share `max_bad`, if nothing is left, or if only some
    pictures have a label. Pixels above `memory_gb` lie in a temporary file.
    """
    pixels = _room((source.count, channels, size, size), memory_gb)
    rows = progress(range(source.count))
    found: list[Example] = []
    bad: list[tuple[str, str]] = []
    for row, outcome in zip(rows, _outcomes(source, size, channels), strict=True):
        if isinstance(outcome, Example):
            pixels[len(found)] = outcome.image
            found.append(outcome._replace(image=UNDECODED))
        else:
            bad.append((f"row {row}", outcome))
    _check_bad(bad, source.count, max_bad, report)
    return Pictures(
        pixels=pixels[: len(found)],
        labels=_labels(found),
        captions=[example.caption for example in found] if source.captioned else None,
        keys=[example.key for example in found],
        names=source.names,
        bad=bad,
    )


def _outcomes(source: Source, size: int, channels: int) -> Iterator[Example | str]:
    """For each row in order the fitted example, or the reason why there is none."""

    def some(start: int) -> list[Example | str]:
        stop = min(start + CHUNK, source.count)
        return [_outcome(source, row, size, channels) for row in range(start, stop)]

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for start in range(0, source.count, CHUNK * AHEAD):
            stop = min(start + CHUNK * AHEAD, source.count)
            for outcomes in pool.map(some, range(start, stop, CHUNK)):
                yield from outcomes
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for them


def _outcome(source: Source, row: int, size: int, channels: int) -> Example | str:
    try:
        example = source.read(row)
        return example._replace(image=fit(recolour(example.image, channels), size))
    except (ValueError, OSError) as fault:
        return str(fault)


def _room(shape: tuple[int, ...], memory_gb: float) -> Tensor:
    """uint8 of this shape; a temporary file that vanishes with it where it is too large."""
    need = int(np.prod(shape, dtype=np.int64))
    if need <= memory_gb * 1e9:
        return torch.empty(shape, dtype=torch.uint8)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(
            f"{need / 1e9:.1f} GB of decoded pictures fit neither into data.memory_gb="
            f"{memory_gb:g} nor into {folder} ({free / 1e9:.1f} GB free); raise the one, point "
            "TMPDIR to a larger disk, or take a smaller data.size"
        )
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _check_bad(bad: list[tuple[str, str]], count: int, max_bad: float, report: Path | None) -> None:
    """List what can't be read; stop if it is too much."""
    if bad and report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"key": key, "reason": reason}) for key, reason in bad)
        report.write_text("\n".join(lines) + "\n")
    if len(bad) > max_bad * count or len(bad) == count:
        first = "; ".join(reason for _, reason in bad[:SHOWN])
        listed = f" All are listed in {report}." if report is not None else ""
        raise ValueError(
            f"{len(bad)} of {count} pictures can't be read, more than data.max_bad={max_bad:g} "
            f"allows: {first}{' …' if len(bad) > SHOWN else ''}.{listed} Mend or remove them."
        )


def _labels(found: list[Example]) -> Tensor | None:
    known = [example.label for example in found if example.label is not None]
    if not known:
        return None
    if len(known) < len(found):
        key = next(example.key for example in found if example.label is None)
        raise ValueError(
            f"{len(found) - len(known)} of {len(found)} pictures have no label, the first {key}; "
            "label all of them or none"
        )
    return torch.tensor(known)
