"""What a run has of its data, wherever it comes from: examples by row, and which of them train."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

from pathline.assemble import Parts
from pathline.config.run import Run
from pathline.data import order as loader
from pathline.types import Cond, Facts

HOLDOUT_SEED = 0  # the same pictures are held out whatever the run's seed


class Data(NamedTuple):
    """Examples on hand, ready for these parts."""

    keys: list[str]  # [N]
    names: tuple[str, ...]  # of the classes
    labels: Tensor | None  # [N]
    captions: Sequence[str | None] | None  # [N] of each the first
    train: Tensor  # row numbers
    held: Tensor  # row numbers
    x1: Callable[[Tensor, Tensor | None, torch.device], Tensor]  # rows, which are mirrored -> x1
    cond: Callable[[Tensor, Tensor | None], Cond]  # rows, uniform numbers that choose a caption
    null: Cond  # one row: what asks for nothing
    pixels: Callable[[Tensor], Tensor]  # rows -> uint8 [n c h w], what drawn ones are judged by
    bucket: Tensor | None = None  # [N]; rows of one bucket are of one size. None: all are
    # as x1: what the run's vision encoder says of these pictures; None: it has none
    features: Callable[[Tensor, Tensor | None, torch.device], Tensor] | None = None


class Found(NamedTuple):
    """A run settled by its data, and the data, still waiting for the run's parts."""

    run: Run
    facts: Facts
    data: Callable[[Parts], Data]


def fingerprint(keys: Sequence[str]) -> str:
    """What facts say of the pictures: row numbers are theirs, so none may come or go unnoticed."""
    names = "\n".join(keys).encode("utf-8", "surrogatepass")
    return f"{len(keys)}, {sha256(names).hexdigest()[:12]}"


def changed(was: Facts, now: Facts) -> str:
    """The first fact that is another now, in words; "" for none."""
    for name, old, new in zip(was._fields, was, now, strict=True):
        if old != new and (old or name != "pictures"):
            return f"{name} was {old}, is {new}"
    return ""


def split(run: Run, count: int) -> tuple[Tensor, Tensor]:
    """Row numbers that train and that are held out. Raises ValueError if none would train."""
    shuffled = torch.tensor(loader.order(HOLDOUT_SEED, 0, count))
    held = round(run.data.holdout * count)
    if held >= count:
        raise ValueError(
            f"data.holdout={run.data.holdout} of {count} pictures leaves none to train on."
        )
    return shuffled[held:], shuffled[:held]
