"""The dataset of a run, whatever its source, and the run that is about to be trained on it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from pathline.console import tracked
from pathline.data.order import epoch_order
from pathline.files import digest
from pathline.training.team import Placement, Team
from pathline.types import Cond, Facts, Text, rows_of

AT_ONCE = 64  # captions between two reports of progress
HOLDOUT_SEED = 0  # the same images are held out whatever the run's seed
# rows, uniform numbers that choose among their captions (None: the first) -> conditions
Conditions = Callable[[Tensor, Tensor | None], Cond]
OnDevice = Callable[[Tensor, Tensor | None, torch.device], Tensor]  # (rows, which are mirrored, …)


class Dataset(NamedTuple):
    """Examples by row number, encoded for a run's parts."""

    keys: list[str]  # [N]
    names: tuple[str, ...]  # of the classes
    labels: Tensor | None  # [N]
    captions: Sequence[str | None] | None  # [N] the first caption of each
    train: Tensor  # row numbers
    held: Tensor  # row numbers that are held out
    x1: OnDevice
    cond: Conditions
    null: Cond  # one row: the unconditional one
    pixels: Callable[[Tensor], Tensor]  # rows -> uint8 [n c h w], to compare samples with
    bucket: Tensor | None = None  # [N]; rows of one bucket have one size. None: all rows do
    features: OnDevice | None = None  # of the run's vision encoder
    repeats: list[int] | None = None  # [N] times each row comes in an epoch; None: once


class LoadedData(NamedTuple):
    """A run with the settings that its data decides, and its data, which the parts then encode."""

    run: Any
    facts: Facts
    dataset_for: Callable[[Any], Dataset]  # parts -> dataset


class TrainingContext(NamedTuple):
    """A run that is about to be trained, in one of its processes."""

    method: str
    run: Any
    facts: Facts
    parts: Any  # of a flow: Parts; of a codec: its autoencoder
    data: Dataset
    team: Team
    folder: Path
    placement: Placement
    console: Console
    say: Callable[[str], None]


def fingerprint(keys: Sequence[str]) -> str:
    """Identifies the images of a run: row numbers depend on them all."""
    names = "\n".join(keys).encode("utf-8", "surrogatepass")
    return f"{len(keys)}, {digest(names)[:12]}"


def changed(was: Facts, now: Facts) -> str:
    """The first fact that differs, in words; "" for none."""
    for name, old, new in zip(was._fields, was, now, strict=True):
        if old != new and (old or name != "pictures"):
            return f"{name} was {old}, is {new}"
    return ""


def split(run: Any, count: int) -> tuple[Tensor, Tensor]:
    """Row numbers to train on and to hold out. Raises ValueError if none is left to train on."""
    shuffled = torch.tensor(epoch_order(HOLDOUT_SEED, 0, count))
    held = round(run.data.holdout * count)
    if held >= count:
        raise ValueError(
            f"data.holdout={run.data.holdout} of {count} images leaves none to train on. "
            "Lower data.holdout."
        )
    return shuffled[held:], shuffled[:held]


def fixed_conditions(cond: Cond) -> Conditions:
    """Conditions of a table with a row for each picture, whatever caption is chosen."""
    return lambda rows, _: rows_of(cond, rows)


def encode_captions(text: Text, captions: Sequence[str | None], console: Console) -> Cond:
    """One table of all captions, encoded a part at a time with progress: an encoder may be slow."""
    starts = range(0, len(captions), AT_ONCE)
    parts = [
        text.encode(captions[start : start + AT_ONCE])
        for start in tracked(starts, f"encoding captions, {AT_ONCE} at a time", console)
    ]
    # Parts are as long as their longest caption; shorter ones end in masked zeros.
    longest = max((part.mask.shape[1] for part in parts if part.mask is not None), default=0)
    columns = zip(*(_padded(part, longest) for part in parts), strict=True)
    return Cond(*(None if column[0] is None else torch.cat(column) for column in columns))


def _padded(cond: Cond, length: int) -> Cond:
    """The condition with tokens, words and mask of this length."""
    if cond.mask is None:
        return cond
    more = length - cond.mask.shape[1]
    tokens = None if cond.tokens is None else F.pad(cond.tokens, (0, 0, 0, more))
    words = None if cond.words is None else F.pad(cond.words, (0, more))
    return cond._replace(tokens=tokens, mask=F.pad(cond.mask, (0, more)), words=words)


def label_conditions(labels: Tensor | None, text: Text, where: object) -> Conditions:
    """The class of each picture. Raises ValueError where pictures have none."""
    if labels is None:
        raise ValueError(f"text=labels needs classes, but {where} has none. Set text=none.")
    return fixed_conditions(text.encode(labels.tolist()))


def first_rows(data: Dataset, count: int) -> Tensor:
    """The first training rows that are of one size."""
    return by_bucket(data, data.train[: 64 * count])[0][:count]


def by_bucket(data: Dataset, rows: Tensor) -> list[Tensor]:
    """The rows, grouped by image size."""
    if data.bucket is None:
        return [rows]
    buckets = data.bucket[rows]
    return [rows[buckets == bucket] for bucket in buckets.unique().tolist()]
