"""From settings to batches: the data on hand, and which of it an update sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pathline.assemble import objective_of
from pathline.compatibility import feature_term, require_rows
from pathline.config.run import Run
from pathline.data import order as loader
from pathline.generate import cond_to
from pathline.runs.dataset import Data, Found
from pathline.runs.from_cache import from_cache
from pathline.runs.from_pictures import from_pictures
from pathline.training.device import lane_rng
from pathline.training.distributed import ALONE, World
from pathline.training.loop import Progress
from pathline.training.players import Lane
from pathline.types import Batch


def found(run: Run, report: Path | None, console: Console) -> Found:
    """The run's data: its cache where it names one, else its pictures.

    report: where what can't be read is listed.
    """
    return from_cache(run) if run.data.cache else from_pictures(run, report, console)


def batch_of(
    data: Data,
    rows: Tensor,
    device: torch.device,
    *,
    flips: Tensor | None = None,
    choices: Tensor | None = None,
    seen: bool = False,
) -> Batch:
    """These rows, all of one bucket, as a batch on the device.

    flips: which are mirrored. choices: uniform numbers that choose among captions; None: the first.
    seen: with what the vision encoder says of them, where the data has one.
    """
    cond, null = (cond_to(c, device) for c in (data.cond(rows, choices), data.null))
    features = data.features(rows, flips, device) if seen and data.features else None
    return Batch(data.x1(rows, flips, device), cond, null, rows, features)


def feeder(
    run: Run, data: Data, device: torch.device, world: World = ALONE
) -> Callable[[Progress], list[Lane]]:
    """This rank's lanes of an update: a function of the run's seed and progress alone.

    Raises ValueError for more lanes than a batch can be shared among.
    """
    lanes = run.train.accumulate * world.size
    if run.train.batch % lanes:
        near = max(1, run.train.batch // lanes) * lanes
        raise ValueError(
            f"train.batch={run.train.batch} can't be shared by {world.size} processes times "
            f"train.accumulate={run.train.accumulate}. Nearest: {near} or {near + lanes}."
        )
    require_rows(objective_of(run), run.train.batch // lanes)
    places = _places(run, data)
    until = feature_term(run).get("until", 0)

    def feed(progress: Progress) -> list[Lane]:
        out = []
        seen = not until or progress.update < until
        for lane in range(world.rank, lanes, world.size):
            found, epochs = places(progress.images, lane, lanes)
            rows = data.train[torch.as_tensor(found)]
            at = (run.seed, epochs, rows.numpy())
            flips = torch.as_tensor(loader.coins(*at, 0.5)) if run.data.flip else None
            choices = torch.as_tensor(loader.chances(*at))
            batch = batch_of(data, rows, device, flips=flips, choices=choices, seen=seen)
            batch = batch._replace(done=progress.update / run.train.updates)
            out.append((batch, lane_rng(run.seed, progress.update, lane, device)))
        return out

    return feed


def held_out(run: Run, data: Data, device: torch.device, most: int = 512) -> list[Batch]:
    """Up to `most` held-out pictures, in batches."""
    return [
        batch_of(data, part, device)
        for rows in by_bucket(data, data.held[:most])
        for part in rows.split(run.train.batch)
    ]


def first_rows(data: Data, count: int) -> Tensor:
    """The first training rows that are of one size."""
    return by_bucket(data, data.train[: 64 * count])[0][:count]


def by_bucket(data: Data, rows: Tensor) -> list[Tensor]:
    """The rows, those of one size together."""
    if data.bucket is None:
        return [rows]
    of = data.bucket[rows]
    return [rows[of == bucket] for bucket in of.unique().tolist()]


def _places(run: Run, data: Data) -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """(images seen, lane, lanes) -> the lane's places in data.train, and the epoch of each."""
    count, batch = len(data.train), run.train.batch
    if data.bucket is not None:
        return loader.bucketed(data.bucket[data.train].numpy(), batch, seed=run.seed)

    def places(images: int, lane: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        at = {"seed": run.seed, "rank": lane, "world": lanes}
        first = images + lane * (batch // lanes)
        epochs = np.arange(first, first + batch // lanes) // count
        return loader.rows(images, batch, count=count, **at), epochs

    return places
