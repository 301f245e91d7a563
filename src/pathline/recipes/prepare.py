"""From settings to data on hand: pictures, their facts, their conditions, and batches of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pathline.assemble import TABLES, Parts, moved, rows_of
from pathline.codecs import normalise
from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.data import loader
from pathline.data.pictures import Pictures, load
from pathline.data.source import Source
from pathline.data.sources import detect
from pathline.text.learned import vocabulary
from pathline.training.loop import Progress
from pathline.training.parallel import lane_rng
from pathline.training.players import Lane
from pathline.training.strategy import ALONE, World
from pathline.types import Batch, Cond, Facts

HOLDOUT_SEED = 0  # the same pictures are held out whatever the run's seed


class Data(NamedTuple):
    """Pictures in memory and which rows train, which are held out."""

    pictures: Pictures
    cond: Cond  # a row for each picture
    train: Tensor  # [N] row numbers
    held: Tensor  # [M] row numbers


def source_of(run: Run) -> tuple[Run, Source]:
    """The run with its data source settled, and the source."""
    pick = run.data.source
    if pick.name == "auto":
        row, options = detect(Path(str(pick.options.get("path", ""))))
        pick = Pick(row, options)
        run = replace(run, data=replace(run.data, source=pick))
    return run, bind(TABLES["data.source"], pick, "data source")()


def pictures_of(run: Run, source: Source, report: Path | None, console: Console) -> Pictures:
    """Every readable picture at the run's size; the unreadable are listed in `report`, if any."""

    def progress(rows: Sequence[Any]) -> Any:
        hidden = not console.is_terminal
        return track(rows, "reading pictures", console=console, disable=hidden, transient=True)

    data = run.data
    found = load(
        source,
        size=data.size,
        channels=data.channels,
        max_bad=data.max_bad,
        memory_gb=data.memory_gb,
        report=report,
        progress=progress,
    )
    if found.bad:
        console.print(f"{len(found.bad)} pictures can't be read and are left out: {report}")
    return found


def facts_of(run: Run, pictures: Pictures) -> tuple[Run, Facts]:
    """What the run will know of its data; text=auto is settled by what the data has."""
    _, channels, height, width = pictures.pixels.shape
    captioned = bool(pictures.captions) and any(pictures.captions or ())
    if run.text.name == "auto":
        name = "words" if captioned else "labels" if pictures.names else "none"
        run = replace(run, text=Pick(name, run.text.options if name == "words" else {}))
    words = vocabulary(pictures.captions or ()) if run.text.name == "words" else ()
    return run, Facts(channels, height, width, tuple(pictures.names), words)


def data_of(run: Run, parts: Parts, pictures: Pictures) -> Data:
    """Conditions and the split into training and held-out rows."""
    count = len(pictures.pixels)
    shuffled = torch.tensor(loader.order(HOLDOUT_SEED, 0, count))
    held = round(run.data.holdout * count)
    if held >= count:
        raise ValueError(
            f"data.holdout={run.data.holdout} of {count} pictures leaves none to train on."
        )
    return Data(pictures, _conditions(run, parts, pictures), shuffled[held:], shuffled[:held])


def _conditions(run: Run, parts: Parts, pictures: Pictures) -> Cond:
    if run.text.name == "labels":
        assert pictures.labels is not None
        return parts.text.encode(pictures.labels.tolist())
    if run.text.name == "none":
        return Cond()
    captions = pictures.captions or [None] * len(pictures.pixels)
    missing = [key for key, said in zip(pictures.keys, captions, strict=True) if not said]
    if missing and run.data.missing_captions == "refuse":
        raise ValueError(
            f"{len(missing)} of {len(captions)} pictures have no caption, the first {missing[0]}. "
            "Caption them, or train them unconditionally with data.missing_captions=null."
        )
    return parts.text.encode(captions)


def batch_of(
    data: Data, parts: Parts, rows: Tensor, flips: Tensor | None, device: torch.device
) -> Batch:
    """These rows as a batch on the device."""
    pixels = data.pictures.pixels.index_select(0, rows).to(device, non_blocking=True)
    if flips is not None:
        pixels = torch.where(flips.to(device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    x1 = normalise(parts.codec, parts.codec.encode(pixels))
    cond, null = (moved(c, device) for c in (rows_of(data.cond, rows), parts.text.null))
    return Batch(x1, cond, null, rows)


def feeder(
    run: Run, data: Data, parts: Parts, device: torch.device, world: World = ALONE
) -> Callable[[Progress], list[Lane]]:
    """This rank's lanes of an update: a function of the run's seed and progress alone.

    Raises ValueError for more lanes than a batch can be shared among.
    """
    lanes, count = run.train.accumulate * world.size, len(data.train)
    if run.train.batch % lanes:
        near = max(1, run.train.batch // lanes) * lanes
        raise ValueError(
            f"train.batch={run.train.batch} can't be shared by {world.size} processes times "
            f"train.accumulate={run.train.accumulate}. Nearest: {near} or {near + lanes}."
        )

    def feed(progress: Progress) -> list[Lane]:
        out = []
        for lane in range(world.rank, lanes, world.size):
            at = {"seed": run.seed, "count": count, "rank": lane, "world": lanes}
            places = loader.rows(progress.images, run.train.batch, **at)
            rows = data.train[torch.as_tensor(places)]
            flips = _flips(run, progress, lane, rows, count)
            batch = batch_of(data, parts, rows, flips, device)
            out.append((batch, lane_rng(run.seed, progress.update, lane, device)))
        return out

    return feed


def held_out(
    run: Run, data: Data, parts: Parts, device: torch.device, most: int = 512
) -> list[Batch]:
    """Up to `most` held-out pictures, in batches."""
    return [
        batch_of(data, parts, rows, None, device)
        for rows in data.held[:most].split(run.train.batch)
    ]


def _flips(run: Run, progress: Progress, lane: int, rows: Tensor, count: int) -> Tensor | None:
    if not run.data.flip:
        return None
    first = progress.images + lane * len(rows)
    epochs = np.arange(first, first + len(rows)) // count
    return torch.as_tensor(loader.coins(run.seed, epochs, rows.numpy(), 0.5))
