"""What happens between updates: log, validate, store averages."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from pathline.training.ema import Ema
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.power_ema import store
from pathline.training.trackers.jsonl import Track
from pathline.types import Batch

DRAWS = 64  # of noise and time, over all held-out images, that a validation loss is the mean of
Show = Callable[[Progress, Mapping[str, float]], None]


def every(n: int, hook: Hook, *, last: int = 0) -> Hook:
    """The hook at every n-th update and at update `last`; n = 0: never."""

    def sometimes(progress: Progress, reports: Reports) -> None:
        if n and (progress.update % n == 0 or progress.update == last):
            hook(progress, reports)

    return sometimes


def logger(players: Sequence[Player], track: Track, show: Show, n: int, *, last: int) -> Hook:
    """Means over the last n updates, read from the device together, to tracker and screen."""
    # Values stay on the device until the window is logged: one read, not one per update.
    window: list[Reports] = []
    last_log = [time.perf_counter(), None]  # seconds, images

    def log(progress: Progress, _: Reports) -> None:
        now = time.perf_counter()
        # Read from the device here only: one synchronisation in `n` updates.
        values = _means(window)
        for player in players:
            values[f"lr/{player.name}"] = player.optimizer.param_groups[0]["lr"]
        # The first interval has no start to measure from.
        if last_log[1] is not None:
            values["images_per_second"] = (progress.images - last_log[1]) / (now - last_log[0])
        last_log[:] = [now, progress.images]
        window.clear()
        track(progress.update, progress.images, values)
        show(progress, values)

    sometimes = every(n, log, last=last)

    def collect(progress: Progress, reports: Reports) -> None:
        window.append(reports)
        sometimes(progress, reports)

    return collect


def _means(window: Sequence[Reports]) -> dict[str, float]:
    values: dict[str, float] = {}
    # By player: the means over updates that were taken, and the count of the others.
    for name in {name for reports in window for name in reports}:
        updates = [reports[name] for reports in window if name in reports]
        taken = [update for update in updates if update.taken]
        prefix = "" if name == "network" else f"{name}/"
        if taken:
            columns = {"loss": [u.loss for u in taken], "gradient_norm": [u.norm for u in taken]}
            for key in dict.fromkeys(
                key for u in taken for key in u.terms
            ):  # a term may begin or end
                columns[f"term/{key}"] = [u.terms[key] for u in taken if key in u.terms]
            read = torch.stack([torch.stack(column).mean() for column in columns.values()]).tolist()
            values |= {f"{prefix}{key}": value for key, value in zip(columns, read, strict=True)}
        if len(taken) < len(updates):
            values[f"{prefix}skipped"] = float(len(updates) - len(taken))
    return values


def validator(
    player: Player,
    losses: Mapping[str, Callable],
    batches: list[Batch],
    track: Track,
    show: Show,
    *,
    ema: Ema | None,
    seed: int = 0,
) -> Hook:
    """Held-out losses with fixed noise and times; few images are read with several.

    losses: name -> (forward, batch, rng) -> (loss, terms). Batches are weighted by their size.
    """
    rounds = max(1, DRAWS // sum(len(batch.x1) for batch in batches))

    @torch.no_grad()
    def validate(progress: Progress, _: Reports) -> None:
        # The same noise at every validation, so that only the weights change the loss.
        player.network.eval()
        columns = [_held_out(player, loss, batches * rounds, seed) for loss in losses.values()]
        player.network.train()
        read = torch.stack(columns).tolist()
        values = dict(zip(losses, read, strict=True))
        track(progress.update, progress.images, values)
        show(progress, values)

    def validate_average(progress: Progress, reports: Reports) -> None:
        if ema is None:
            return validate(progress, reports)
        with ema.lent_to(player.network):
            return validate(progress, reports)

    return validate_average


def _held_out(player: Player, loss: Callable, batches: Sequence[Batch], seed: int) -> torch.Tensor:
    # One generator for all batches, begun anew: only the weights change the loss.
    rng = torch.Generator(batches[0].x1.device).manual_seed(seed)
    with player.precision.autocast():
        total = sum(loss(player.forward, batch, rng)[0] * len(batch.x1) for batch in batches)
    return torch.as_tensor(total) / sum(len(batch.x1) for batch in batches)


def snapshot_hook(
    averages: Sequence[Ema], folder: Path, tell: Callable[[str], None], *, writes: bool = True
) -> Hook:
    """Store every average; a full disk is reported by `tell`, and training continues."""

    def keep(progress: Progress, _: Reports) -> None:
        for average in averages:
            try:
                store(folder, average, progress.update, writes=writes)
            except OSError as error:
                tell(f"{average.name} of update {progress.update} was not stored: {error}")

    return keep
