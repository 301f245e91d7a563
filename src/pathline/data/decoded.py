"""All readable pictures of a source at one size, decoded once, in memory or a temporary file."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pathline.data.ahead import map_ahead
from pathline.data.captions import missing_captions
from pathline.data.faults import Fault, refuse, unreadable_problem, write_faults
from pathline.data.sources.source import UNDECODED, Source
from pathline.data.transforms import fit, recolour
from pathline.types import Example

Progress = Callable[[Sequence[Any]], Iterable[Any]]
CHUNK, AHEAD = 32, 2048  # pictures a thread decodes at a time, and that wait to be used


class Pictures(NamedTuple):
    """The readable pictures of a source, row by row."""

    pixels: Tensor  # uint8 [N C H W]
    labels: Tensor | None  # int64 [N]
    captions: list[str | None] | None  # None for a picture without one
    keys: list[str]
    names: tuple[str, ...]  # of the classes
    unreadable: list[Fault]  # of row 7 with the key "row 7"
    repeats: list[int]  # times each comes in an epoch


def load(
    source: Source,
    *,
    size: int,
    channels: int,
    max_bad: float = 0.01,
    memory_gb: float = 8.0,
    report: Path | None = None,
    needs: Collection[str] = ("labels",),
    progress: Progress = iter,
) -> Pictures:
    """Decode every picture, cut square and scaled to size × size.

    What can't be read is left out and listed, one JSON object a line, in `report`. Raises
    ValueError, with all that is wrong, if that is more than the share `max_bad`, if nothing is
    left, or if only some pictures have what the run `needs`: "labels", "captions". Pixels above
    `memory_gb` are in a temporary file.
    """
    # One array at the final size, in memory or in a temporary file.
    pixels = _allocate((source.count, channels, size, size), memory_gb)
    examples: list[Example] = []
    unreadable: list[Fault] = []
    decode = partial(_decode, source, size, channels)
    rows = range(source.count)
    with closing(map_ahead(decode, rows, ahead=AHEAD, chunk=CHUNK)) as decoded:
        for _, example in zip(progress(rows), decoded, strict=True):
            if isinstance(example, Fault):
                unreadable.append(example)
                continue
            # The pixels go into the array; examples keep captions and labels only.
            pixels[len(examples)] = example.image
            examples.append(example._replace(image=UNDECODED))
    # Every fault is listed before a share of them stops the run; the reasons are told together.
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_faults(report, unreadable)
    captions = {example.key: example.captions or example.caption for example in examples}
    problems = [
        unreadable_problem(unreadable, source.count, max_bad, report, usable=len(examples)),
        missing_labels(examples) if "labels" in needs else "",
        missing_captions(captions) if "captions" in needs else "",
    ]
    refuse([problem for problem in problems if problem], "the pictures")
    labels = [example.label for example in examples]
    return Pictures(
        pixels=pixels[: len(examples)],
        labels=None if not labels or None in labels else torch.tensor(labels),
        captions=[example.caption for example in examples] if source.captioned else None,
        keys=[example.key for example in examples],
        names=source.names,
        unreadable=unreadable,
        repeats=[example.repeats for example in examples],
    )


def _decode(source: Source, size: int, channels: int, row: int) -> Example | Fault:
    try:
        example = source.read(row)
        return example._replace(image=fit(recolour(example.image, channels), size))
    except (ValueError, OSError) as error:
        return Fault(f"row {row}", str(error))


def _allocate(shape: tuple[int, ...], memory_gb: float) -> Tensor:
    """uint8 of this shape; a temporary file that vanishes with it where it is too large."""
    need = int(np.prod(shape, dtype=np.int64))
    if need <= memory_gb * 1e9:
        return torch.empty(shape, dtype=torch.uint8)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(
            f"{need / 1e9:.1f} GB of decoded pictures fit neither into data.memory_gb="
            f"{memory_gb:g} nor into {folder} ({free / 1e9:.1f} GB free). Raise data.memory_gb, "
            "point TMPDIR to a larger disk, or take a smaller data.size."
        )
    # The file has no name, or loses it as it is closed (Windows): the system frees it after a kill
    # too. It stays open as long as the array.
    file = tempfile.TemporaryFile()  # noqa: SIM115
    array = np.memmap(file, np.uint8, "w+", shape=shape)
    weakref.finalize(array, file.close)
    return torch.from_numpy(array)


def missing_labels(examples: Sequence[Example]) -> str:
    """A sentence where some pictures have a label and others none; "" for all or none."""
    unlabelled = [example.key for example in examples if example.label is None]
    if len(unlabelled) in (0, len(examples)):
        return ""
    return (
        f"{len(unlabelled)} of {len(examples)} pictures have no label, the first "
        f"{unlabelled[0]}. Label all of them or none."
    )
