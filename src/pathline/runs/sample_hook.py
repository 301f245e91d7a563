"""Sample grids while training: from the same noise each time, and from fresh noise."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from pathline.config.run import Run
from pathline.generate import (
    UNCONDITIONED,
    Autocast,
    Conditioning,
    decode_images,
    item_text,
    sample_images,
)
from pathline.images import save_sheet, sheet
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.runs.sampling import checked_sampler, sampling_ema
from pathline.text.table import is_frozen, reads_of
from pathline.training.distributed import World, agreed
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Tracker
from pathline.types import Item

MOST_COLUMNS = 10  # classes that each have a column of a sample grid


def sample_items(
    run: Run, parts: Parts, data: Dataset, count: int
) -> tuple[list[Item], Conditioning]:
    """Items of a sample grid: sample.prompts, classes in turn, captions of the data, or None.

    Captions come with their conditions as the data has them where a frozen encoder made these.
    """
    if run.sample.prompts:
        prompts = run.sample.prompts
        _check_prompts(prompts, parts)
        return [prompts[index % len(prompts)] for index in range(count)], UNCONDITIONED
    if reads_of(run.text.name) == "labels":
        return [index % len(parts.facts.names) for index in range(count)], UNCONDITIONED
    captions = data.captions
    if reads_of(run.text.name) == "nothing" or not captions:
        return [None] * count, UNCONDITIONED
    rows = _different(captions, [*data.held.tolist(), *data.train.tolist()], count)
    items: list[Item] = [captions[row] for row in rows]
    if not is_frozen(run.text.name):
        return items, UNCONDITIONED
    return items, Conditioning(data.cond(torch.tensor(rows), None), data.null)


def _check_prompts(prompts: Sequence[str], parts: Parts) -> None:
    """Raises ValueError, before anything is trained, for prompts that this run can't read."""
    try:
        parts.text.encode(prompts)
    except ValueError as error:
        raise ValueError(f"sample.prompts is wrong because: {error}") from None


def _different(captions: Sequence[str | None], rows: Sequence[int], count: int) -> list[int]:
    """The first `count` rows with different captions, held-out ones first; fewer come in turn."""
    first_rows: dict[str | None, int] = {}
    for row in rows:
        first_rows.setdefault(captions[row], row)
        if len(first_rows) == count:
            break
    chosen = [*first_rows.values()]
    return [chosen[index % len(chosen)] for index in range(count)]


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
    count = len(run.sample.prompts) or run.sample.count
    items, conditioning = sample_items(run, parts, data, count)
    ema = sampling_ema(run, player.emas)
    # What cannot be sampled or decoded is refused before training.
    settings = checked_sampler(parts, run.sample)
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
    is_first = not any(folder.glob("*.png"))
    try:
        folder.mkdir(exist_ok=True)
        save_sheet(page, file)
    except OSError as error:
        say(f"the sample grid of update {update} was not written: {error}")
    else:
        tracker.picture(update, f"samples/{name}", file)
        if is_first:
            say(f"first samples: {file}")


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
    titles = [item_text(grid.parts, item) for item in items]
    classes = len(grid.parts.facts.names) if isinstance(items[0], int) else 0
    columns = classes if 3 <= classes <= MOST_COLUMNS else None  # a class in each

    def sample_page(progress: Progress, name: str, seed: int) -> None:
        with grid.ema.lent_to(grid.player.network):
            pixels = grid.sample([seed + index for index in range(len(items))])
        if world.rank == 0:
            page = sheet(pixels, titles, columns=columns)
            write_page(page, folder, name, progress.update, tracker, say)
        grid.player.network.train()

    def sample_pages(progress: Progress, _: Reports) -> None:
        sample_page(progress, "fixed", 0)
        sample_page(progress, "fresh", progress.update * len(items))

    if train.first_sample and not any(folder.glob("fixed-*.png")):
        yield _first_grid(lambda p, _: sample_page(p, "fixed", 0), grid.run)
    yield every(train.sample_every, sample_pages, last=train.updates)


def _first_grid(sample: Hook, run: Run) -> Hook:
    """The hook once, train.first_sample seconds from now, unless a grid is due before."""
    due, is_waiting = time.monotonic() + run.train.first_sample, True

    def sample_first(progress: Progress, reports: Reports) -> None:
        nonlocal is_waiting
        is_waiting = is_waiting and progress.update < run.train.sample_every
        # All processes sample at one update, whatever their clocks say.
        if is_waiting and progress.update < run.train.updates and agreed(time.monotonic() >= due):
            is_waiting = False
            sample(progress, reports)

    return sample_first
