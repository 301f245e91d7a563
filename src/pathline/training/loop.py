"""The training loop: batches to players to hooks. It knows no method, file, device or screen."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pathline.training.players import Lane, Player, Update, update


class Progress(NamedTuple):
    """Progress of a run. `images` is the data cursor: images trained on since the very start."""

    update: int = 0
    images: int = 0


Feed = Callable[[Progress], Sequence[Lane]]
Reports = dict[str, Update]  # by player, of those that were updated
Hook = Callable[[Progress, Reports], None]


class Outcome(NamedTuple):
    progress: Progress
    reason: Literal["done", "interrupted", "diverged"]


def train_players(
    players: Sequence[Player],
    feed: Feed,
    start: Progress,
    *,
    updates: int,
    batch: int,
    hooks: Sequence[Hook] = (),
    stopped: Callable[[], bool] = lambda: False,
    complain: Callable[[Progress, str, Sequence[Lane]], None],
    patience: int = 3,
) -> Outcome:
    """Train from `start` to `updates`. batch: images per update, over all ranks and lanes.

    An update whose loss or gradient is not finite is not taken; `patience` of them in a row end the
    run with the weights as they were before the first.
    """
    progress, bad = start, 0
    while progress.update < updates:
        if stopped():
            return Outcome(progress, "interrupted")
        # All players see the same batch; each draws its noise from the lane's generator in turn.
        lanes = feed(progress)
        reports = {
            player.name: update(player, lanes, progress.update)
            for player in players
            if player.is_due(progress.update)
        }
        faults = [f"{name}: {report.fault}" for name, report in reports.items() if report.fault]
        bad = bad + 1 if faults else 0
        if faults:
            complain(progress, "; ".join(faults), lanes)
        # A skipped update counts: its images are passed, or a bad one would come again for ever.
        progress = Progress(progress.update + 1, progress.images + batch)
        if bad == patience:
            return Outcome(progress, "diverged")
        for hook in hooks:
            hook(progress, reports)
    return Outcome(progress, "done")
