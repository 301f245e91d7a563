"""What a run was trained on, as far as scores need it: real images, and the items to sample for."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.config.run import Run
from pathline.runs.dataset import Dataset
from pathline.text.table import reads_of
from pathline.types import Item

MOST = 10_000  # reference images, unless more are sampled
REPEATS = 16  # images of an item whose diversity is measured, sampled ones and real ones


class Reference(NamedTuple):
    """Real images to compare with."""

    name: str
    pixels: Tensor  # uint8 [N c h w]
    labels: Tensor | None = None  # [N]
    held: Tensor | None = None  # uint8 [M c h w], never trained on
    names: tuple[str, ...] = ()  # of the classes


def random_rows(count: int, n: int, seed: int) -> Tensor:
    """n of `count` rows at random; none twice before all were taken."""
    rng = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=rng) for _ in range(math.ceil(n / count))]
    return torch.cat(rounds)[:n]


def training_items(run: Run, data: Dataset, n: int, seed: int) -> list[Item]:
    """The labels or captions of n random training pictures; None where the run has neither."""
    rows = data.train[random_rows(len(data.train), n, seed)].tolist()
    if reads_of(run.text.name) == "labels":
        assert data.labels is not None
        return data.labels[rows].tolist()
    captions = data.captions
    if reads_of(run.text.name) == "nothing" or captions is None:
        return [None] * n
    return [captions[row] for row in rows]


def training_reference(run: Run, data: Dataset, n: int, seed: int) -> Reference:
    """The run's training and held-out images; a random part of many, enough to score n images."""
    most = max(MOST, 2 * n)  # the baseline takes two sets of n
    # Images of several shapes can't be stacked; those of the most frequent one stand for all.
    train, held = (_of_one_size(data, rows) for rows in (data.train, data.held))
    rows = train[random_rows(len(train), min(most, len(train)), seed)]
    labels, held = data.labels, held[:most]
    pixels = data.pixels(rows)
    height, width = pixels.shape[2:]
    decoded = ", as its codec decodes them" if run.data.cache else ""
    size = "" if data.bucket is None else f", only {height}x{width}, the most frequent size"
    return Reference(
        f"training images of {run.name}{decoded}{size}",
        pixels,
        None if labels is None else labels[rows],
        data.pixels(held) if len(held) > 1 else None,
        data.names,
    )


def _of_one_size(data: Dataset, rows: Tensor) -> Tensor:
    """The rows of the most frequent size, which is the one in facts; all where there is one."""
    if data.bucket is None or not len(rows):
        return rows
    return rows[data.bucket[rows] == torch.bincount(data.bucket).argmax()]
