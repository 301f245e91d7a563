"""Grids drawn while training: with the same noise each time, and with fresh noise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pathline.assemble import Parts, sampler
from pathline.config.run import Run
from pathline.generate import Autocast, generate, refuse_misfit, title
from pathline.picture import sheet
from pathline.recipes.prepare import Data
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.strategy import World
from pathline.training.trackers import Tracker


def items_of(run: Run, parts: Parts, data: Data, count: int) -> list[str | int | None]:
    """What to draw for a look at the run: classes in turn, or captions of the data, or anything."""
    if run.text.name == "labels":
        return [index % len(parts.facts.names) for index in range(count)]
    captions = data.pictures.captions
    if run.text.name == "none" or not captions:
        return [None] * count
    rows = data.held if len(data.held) else data.train
    return [captions[int(rows[index % len(rows)])] for index in range(count)]


class Sampling(NamedTuple):
    """What is drawn at each look at a run, and with what."""

    run: Run
    parts: Parts
    player: Player
    ema: Ema
    items: list[str | int | None]
    draw: Callable[[Sequence[int]], Tensor]


def sampling(
    run: Run, parts: Parts, data: Data, player: Player, autocast: Autocast
) -> Sampling | None:
    """Make ready to draw grids while training; None where none are asked for.

    Raises ValueError for a solver or guidance that this run can't be drawn with.
    """
    if not run.train.sample_every:
        return None
    items = items_of(run, parts, data, run.sample.count)
    wanted = f"ema-{run.sample.ema or run.train.ema[0]}"
    ema = next(ema for ema in player.emas if ema.name == wanted)
    draws = sampler(run.sample, parts.path)
    refuse_misfit(parts, draws)

    def draw(seeds: Sequence[int]) -> Tensor:
        return generate(parts, items, seeds, draws, batch=run.sample.batch, autocast=autocast)

    return Sampling(run, parts, player, ema, items, draw)


def sampling_hook(
    ready: Sampling | None, folder: Path, tracker: Tracker, world: World
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
                folder.mkdir(exist_ok=True)
                file = folder / f"{name}-{progress.update:08d}.png"
                sheet(pixels, [title(ready.parts, item) for item in items]).save(file)
                tracker.picture(progress.update, f"samples/{name}", file)
        ready.player.network.train()

    yield every(train.sample_every, look, last=train.updates)
