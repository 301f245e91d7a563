"""Grids drawn while training: with the same noise each time, and with fresh noise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from pathline.assemble import Parts, sampler
from pathline.config.run import Run
from pathline.generate import Ask, Autocast, Item, decode, generate, refuse_misfit, title
from pathline.images import sheet
from pathline.runs.dataset import Data
from pathline.text.table import is_frozen, reads_of
from pathline.training.distributed import World
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Tracker


def items_of(run: Run, parts: Parts, data: Data, count: int) -> list[Item]:
    """What to draw for a look at the run: classes in turn, or captions of the data, or anything."""
    return _asked(run, parts, data, count)[0]


def _asked(run: Run, parts: Parts, data: Data, count: int) -> tuple[list[Item], Ask]:
    """The items, and their conditions as the data holds them where a frozen encoder made them."""
    if reads_of(run.text.name) == "labels":
        return [index % len(parts.facts.names) for index in range(count)], Ask()
    captions = data.captions
    if reads_of(run.text.name) == "nothing" or not captions:
        return [None] * count, Ask()
    rows = data.held if len(data.held) else data.train
    rows = rows[torch.arange(count) % len(rows)]
    items: list[Item] = [captions[row] for row in rows.tolist()]
    if not is_frozen(run.text.name):
        return items, Ask()
    return items, Ask(data.cond(rows, None), data.null)


class Sampling(NamedTuple):
    """What is drawn at each look at a run, and with what."""

    run: Run
    parts: Parts
    player: Player
    ema: Ema
    items: list[Item]
    draw: Callable[[Sequence[int]], Tensor]


def sampling(
    run: Run, parts: Parts, data: Data, player: Player, autocast: Autocast
) -> Sampling | None:
    """Make ready to draw grids while training; None where none are asked for.

    Raises ValueError for a solver or guidance that this run can't be drawn with.
    """
    if not run.train.sample_every:
        return None
    items, ask = _asked(run, parts, data, run.sample.count)
    wanted = f"ema-{run.train.ema[0] if run.sample.ema is None else run.sample.ema}"
    ema = next(ema for ema in player.emas if ema.name == wanted)
    draws = sampler(run.sample, parts.path)
    refuse_misfit(parts, draws)
    _refuse_undrawable(parts, next(player.network.parameters()).device)

    def draw(seeds: Sequence[int]) -> Tensor:
        return generate(
            parts, items, seeds, draws, batch=run.sample.batch, autocast=autocast, ask=ask
        )

    return Sampling(run, parts, player, ema, items, draw)


def _refuse_undrawable(parts: Parts, device: torch.device) -> None:
    """Raises ValueError, before anything is trained, if the codec of a cache is not at hand."""
    if parts.facts.made is None:
        return
    try:
        decode(parts, torch.zeros(1, *parts.shape(), device=device))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error} Without it a training can draw nothing: train.sample_every=0."
        ) from None


def shown(
    page: Image,
    folder: Path,
    name: str,
    update: int,
    tracker: Tracker,
    say: Callable[[str], None],
) -> None:
    """Write `NAME-….png` and hand it to the tracker; what can't be written is told."""
    file = folder / f"{name}-{update:08d}.png"
    try:
        folder.mkdir(exist_ok=True)
        page.save(file)
    except OSError as error:
        say(f"the pictures of update {update} were not written: {error}")
    else:
        tracker.picture(update, f"samples/{name}", file)


def sampling_hook(
    ready: Sampling | None,
    folder: Path,
    tracker: Tracker,
    world: World,
    say: Callable[[str], None],
) -> Iterator[Hook]:
    """Draw `fixed-….png` (seeds 0 …) and `fresh-….png` every so often, from the sampling EMA.

    Every process draws, for the network may lie split among them; the first one writes.
    """
    if ready is None:
        return
    items, train = ready.items, ready.run.train

    def look(progress: Progress, _: Reports) -> None:
        first = {"fixed": 0, "fresh": progress.update * len(items)}
        for name, seed in first.items():
            with ready.ema.lent_to(ready.player.network):
                pixels = ready.draw([seed + index for index in range(len(items))])
            if world.rank == 0:
                page = sheet(pixels, [title(ready.parts, item) for item in items])
                shown(page, folder, name, progress.update, tracker, say)
        ready.player.network.train()

    yield every(train.sample_every, look, last=train.updates)
