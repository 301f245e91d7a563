"""The batches of a run: what an update is trained on, and what is held out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pathline.assemble import objective_of
from pathline.compatibility import feature_term, require_rows
from pathline.config.run import Run
from pathline.data import order
from pathline.nn.attention import cond_to
from pathline.runs.dataset import Dataset, LoadedData, by_bucket
from pathline.runs.from_cache import from_cache
from pathline.runs.from_pictures import from_pictures
from pathline.training.distributed import ALONE, World
from pathline.training.loop import Feed, Progress
from pathline.training.players import Lane, lane_rng
from pathline.types import Batch


def load_data(run: Run, report: Path | None, console: Console) -> LoadedData:
    """The run's data: its cache if it names one, else its images.

    report: the file that lists unreadable images.
    """
    return from_cache(run) if run.data.cache else from_pictures(run, report, console)


def batch_of(
    data: Dataset,
    rows: Tensor,
    device: torch.device,
    *,
    flips: Tensor | None = None,
    choices: Tensor | None = None,
    with_features: bool = False,
) -> Batch:
    """These rows, all of one bucket, as a batch on the device.

    flips: which are mirrored. choices: uniform numbers that choose among captions; None: the first
    caption. with_features: with the features of the vision encoder, where the data has some.
    """
    cond, null = (cond_to(c, device) for c in (data.cond(rows, choices), data.null))
    features = data.features(rows, flips, device) if with_features and data.features else None
    return Batch(data.x1(rows, flips, device), cond, null, rows, features)


def flow_feeder(run: Run, data: Dataset, device: torch.device, world: World = ALONE) -> Feed:
    """The feed of a flow. Raises ValueError if its objective needs larger micro-batches."""
    require_rows(objective_of(run), run.train.batch // _lanes(run, world))
    return feeder(run, data, device, world, features_until=feature_term(run).get("until", 0))


def feeder(
    run: Any, data: Dataset, device: torch.device, world: World = ALONE, *, features_until: int = 0
) -> Feed:
    """This rank's lanes of an update: a function of the run's seed and progress alone.

    features_until: update from which batches have no features; 0: all have them.
    Raises ValueError if the batch cannot be divided into lanes.
    """
    lanes = _lanes(run, world)
    train_rows, copies = order.repeat_rows(data.train.numpy(), data.repeats)
    positions_of = _positions(run, data, train_rows)

    def feed(progress: Progress) -> list[Lane]:
        batches = []
        with_features = not features_until or progress.update < features_until
        # A lane's rows and noise depend on its number alone, whichever rank takes it.
        for lane in range(world.rank, lanes, world.size):
            positions, epochs = positions_of(progress.images, lane, lanes)
            # Flips and captions are a function of (seed, epoch, row), never of the process. The
            # copies of a picture in one epoch have others, as if they were of further epochs.
            rows = torch.as_tensor(train_rows[positions])
            at = (run.seed, epochs + (copies[positions] << 32), rows.numpy())
            flips = torch.as_tensor(order.coins(*at, 0.5)) if run.data.flip else None
            choices = torch.as_tensor(order.caption_numbers(*at))
            options = {"flips": flips, "choices": choices, "with_features": with_features}
            batch = batch_of(data, rows, device, **options)
            batch = batch._replace(done=progress.update / run.train.updates)
            batches.append((batch, lane_rng(run.seed, progress.update, lane, device)))
        return batches

    return feed


def held_out(run: Any, data: Dataset, device: torch.device, limit: int = 512) -> list[Batch]:
    """Up to `limit` held-out images, in batches."""
    return [
        batch_of(data, part, device)
        for rows in by_bucket(data, data.held[:limit])
        for part in rows.split(run.train.batch)
    ]


def _lanes(run: Any, world: World) -> int:
    """Micro-batches of an update over all ranks. Raises ValueError if they cannot be equal."""
    lanes = run.train.accumulate * world.size
    if run.train.batch % lanes:
        near = max(1, run.train.batch // lanes) * lanes
        raise ValueError(
            f"train.batch={run.train.batch} is not divisible by {world.size} processes × "
            f"train.accumulate={run.train.accumulate}. Nearest: {near} or {near + lanes}."
        )
    return lanes


def _positions(
    run: Any, data: Dataset, rows: np.ndarray
) -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """(images so far, lane, lanes) -> the lane's positions in `rows`, and their epochs."""
    count, batch = len(rows), run.train.batch
    if data.bucket is not None:
        return order.bucket_batches(
            data.bucket[torch.as_tensor(rows)].numpy(), batch, seed=run.seed
        )

    def positions(images: int, lane: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        at = {"seed": run.seed, "rank": lane, "world": lanes}
        # Epochs as `batch_rows` counts them, for flips and captions that change with them.
        first = images + lane * (batch // lanes)
        epochs = np.arange(first, first + batch // lanes) // count
        return order.batch_rows(images, batch, count=count, **at), epochs

    return positions
