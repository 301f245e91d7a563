"""Grids drawn while training: with the same noise each time, and with fresh noise."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from pathline.assemble import Parts, sampler
from pathline.config.run import Run
from pathline.generate import Autocast, generate, refuse_misfit, title
from pathline.picture import sheet
from pathline.recipes.prepare import Data
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player


def items_of(run: Run, parts: Parts, data: Data, count: int) -> list[str | int | None]:
    """What to draw for a look at the run: classes in turn, or captions of the data, or anything."""
    if run.text.name == "labels":
        return [index % len(parts.facts.names) for index in range(count)]
    captions = data.pictures.captions
    if run.text.name == "none" or not captions:
        return [None] * count
    rows = data.held if len(data.held) else data.train
    return [captions[int(rows[index % len(rows)])] for index in range(count)]


def sample_hook(
    run: Run, parts: Parts, data: Data, player: Player, folder: Path, autocast: Autocast
) -> Iterator[Hook]:
    """Draw `fixed-….png` (seeds 0 …) and `fresh-….png` every so often, from the sampling EMA."""
    if not run.train.sample_every:
        return
    items = items_of(run, parts, data, run.sample.count)
    wanted = run.sample.ema or run.train.ema[0]
    ema = next(ema for ema in player.emas if ema.decay == wanted)
    draws = sampler(run.sample, parts.path)
    refuse_misfit(parts, draws)

    def draw(progress: Progress, _: Reports) -> None:
        folder.mkdir(exist_ok=True)
        first = {"fixed": 0, "fresh": progress.update * len(items)}
        with ema.lent_to(player.network) if ema else nullcontext():
            for name, seed in first.items():
                seeds = [seed + index for index in range(len(items))]
                pixels = generate(
                    parts, items, seeds, draws, batch=run.sample.batch, autocast=autocast
                )
                sheet(pixels, [title(parts, item) for item in items]).save(
                    folder / f"{name}-{progress.update:08d}.png"
                )
        player.network.train()

    yield every(run.train.sample_every, draw, last=run.train.updates)
