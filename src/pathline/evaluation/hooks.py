"""What happens beside the updates of a run: logs, validation, saves, samples, measurements."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from pathline.assemble import Parts
from pathline.config.run import Run
from pathline.evaluation.eval_hook import eval_hook, prepare_evaluation
from pathline.runs.dataset import Data
from pathline.runs.feed import held_out
from pathline.runs.folder import AVERAGES
from pathline.runs.sample_hook import prepare_grid, sampling_hook
from pathline.runs.saver import Saver, attempt
from pathline.training.distributed import World
from pathline.training.hooks import Show, every, logger, snapshot_hook, validator
from pathline.training.loop import Hook, Progress
from pathline.training.players import Player
from pathline.training.power_ema import forget
from pathline.training.trackers.jsonl import Tracker

VALIDATION_TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Ready(NamedTuple):
    """A run that is about to train, in one of its processes."""

    run: Run
    parts: Parts
    data: Data
    player: Player
    where: Path
    device: torch.device
    world: World
    console: Console
    say: Callable[[str], None]


Late = Callable[[Progress, Tracker, Saver, Show], list[Hook]]


def hooks_of(ready: Ready) -> Late:
    """All hooks of a run but the bar's, still to be told where it starts and what they write to.

    Raises ValueError, before anything is written, for what can't be drawn or measured.
    """
    run, player, data = ready.run, ready.player, ready.data
    samples = prepare_grid(run, ready.parts, data, player, player.precision.autocast)
    evaluation = prepare_evaluation(
        run, ready.parts, data, player, player.precision.autocast, ready.say
    )

    def hooks(start: Progress, tracker: Tracker, saver: Saver, show: Show) -> list[Hook]:
        track, last = tracker.numbers, run.train.updates

        def save(progress: Progress) -> None:
            attempt(saver, progress, ready.console, settled=True)

        return [
            logger([player], track, show, run.train.log_every, last=last),
            *_snapshots(ready, start),
            *_validation(ready, tracker, show),
            every(run.train.save_every, lambda p, _: attempt(saver, p, ready.console)),
            *sampling_hook(samples, ready.where / "samples", tracker, ready.world, ready.say),
            *eval_hook(evaluation, ready.where, track, save, ready.say),
        ]

    return hooks


def _snapshots(ready: Ready, start: Progress) -> Iterator[Hook]:
    """Power averages, stored; what a run that goes on will store again is deleted."""
    averages = [ema for ema in ready.player.emas if ema.sigma_rel]
    if not averages:
        return
    folder, first = ready.where / AVERAGES, ready.world.rank == 0
    if first:
        forget(folder, after=start.update)
    keep = snapshot_hook(averages, folder, ready.say, writes=first)
    yield every(ready.run.train.snapshot_every, keep, last=ready.run.train.updates)


def _validation(ready: Ready, tracker: Tracker, show: Show) -> Iterator[Hook]:
    run, parts = ready.run, ready.parts
    if not run.train.validate_every or not len(ready.data.held):
        return
    loss_at = {
        t: partial(
            parts.objective.loss, draw=parts.draw_at(t), criterion=parts.criterion, training=False
        )
        for t in VALIDATION_TIMES
    }
    batches: Sequence = held_out(run, ready.data, ready.device)
    ema = ready.player.emas[0]
    hook = validator(ready.player, loss_at, batches, tracker.numbers, show, ema=ema)
    yield every(run.train.validate_every, hook, last=run.train.updates)
