"""Sample grids while training: from the same noise each time, and from fresh noise."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from pathline.assemble import sampler
from pathline.config.run import Run
from pathline.generate import (
    UNCONDITIONED,
    Autocast,
    Conditioning,
    check_sampler,
    decode_images,
    item_text,
    sample_images,
)
from pathline.images import save_sheet, sheet
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.text.table import is_frozen, reads_of
from pathline.training.distributed import World
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Tracker
from pathline.types import Item


def sample_items(
    run: Run, parts: Parts, data: Dataset, count: int
) -> tuple[list[Item], Conditioning]:
    """Items of a sample grid: classes in turn, captions of the data, or None.

    Captions come with their conditions as the data has them where a frozen encoder made these.
    """
    if reads_of(run.text.name) == "labels":
        return [index % len(parts.facts.names) for index in range(count)], UNCONDITIONED
    captions = data.captions
    if reads_of(run.text.name) == "nothing" or not captions:
        return [None] * count, UNCONDITIONED
    rows = data.held if len(data.held) else data.train
    rows = rows[torch.arange(count) % len(rows)]
    items: list[Item] = [captions[row] for row in rows.tolist()]
    if not is_frozen(run.text.name):
        return items, UNCONDITIONED
    return items, Conditioning(data.cond(rows, None), data.null)


class SampleGrid(NamedTuple):
    """The grid that a training samples every so often, and the weights it is sampled with."""

    run: Run
    parts: Parts
    player: Player
    ema: Ema
    items: list[Item]
    sample: Callable[[Sequence[int]], Tensor]  # seeds -> uint8 [n c h w]


def prepare_grid(
    run: Run, parts: Parts, data: Dataset, player: Player, autocast: Autocast
) -> SampleGrid | None:
    """All that the sample grids of a training need; None with train.sample_every=0.

    Raises ValueError for a solver or guidance that this run can't be sampled with.
    """
    if not run.train.sample_every:
        return None
    # The same items at each look, so that grids can be compared.
    items, conditioning = sample_items(run, parts, data, run.sample.count)
    decay = f"ema-{run.train.ema[0] if run.sample.ema is None else run.sample.ema}"
    ema = next(ema for ema in player.emas if ema.name == decay)
    settings = sampler(run.sample, parts.path)
    # What cannot be sampled or decoded is refused before training.
    check_sampler(parts, settings)
    _check_codec(parts, next(player.network.parameters()).device)
    sample = partial(
        sample_images,
        parts,
        items,
        sampler=settings,
        batch=run.sample.batch,
        autocast=autocast,
        conditioning=conditioning,
    )
    return SampleGrid(run, parts, player, ema, items, sample)


def _check_codec(parts: Parts, device: torch.device) -> None:
    """Raises ValueError, before anything is trained, if a cache's codec can't be loaded."""
    if parts.facts.cache is None:
        return
    try:
        decode_images(parts, torch.zeros(1, *parts.shape(), device=device))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error} Without it a training can't sample: set train.sample_every=0."
        ) from None


def write_page(
    page: Image,
    folder: Path,
    name: str,
    update: int,
    tracker: Tracker,
    say: Callable[[str], None],
) -> None:
    """Write `NAME-….png` and hand it to the tracker; print a message if it can't be written."""
    file = folder / f"{name}-{update:08d}.png"
    try:
        folder.mkdir(exist_ok=True)
        save_sheet(page, file)
    except OSError as error:
        say(f"the sample grid of update {update} was not written: {error}")
    else:
        tracker.picture(update, f"samples/{name}", file)


def sampling_hook(
    grid: SampleGrid | None,
    folder: Path,
    tracker: Tracker,
    world: World,
    say: Callable[[str], None],
) -> Iterator[Hook]:
    """Sample `fixed-….png` (seeds 0 …) and `fresh-….png` with the sampling EMA.

    Every process samples, for the network may be sharded among them; the first writes.
    """
    if grid is None:
        return
    items, train = grid.items, grid.run.train

    def sample_pages(progress: Progress, _: Reports) -> None:
        # fixed: the same noise each time; fresh: noise of no earlier grid.
        first_seeds = {"fixed": 0, "fresh": progress.update * len(items)}
        for name, seed in first_seeds.items():
            with grid.ema.lent_to(grid.player.network):
                pixels = grid.sample([seed + index for index in range(len(items))])
            if world.rank == 0:
                page = sheet(pixels, [item_text(grid.parts, item) for item in items])
                write_page(page, folder, name, progress.update, tracker, say)
        grid.player.network.train()

    yield every(train.sample_every, sample_pages, last=train.updates)
