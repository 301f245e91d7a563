"""Train a flow: settings, data, parts, player, hooks, loop, top to bottom."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pathline.assemble import (
    Parts,
    assemble,
    check_settings,
    optimizer,
    put_on,
    rate,
    warnings_of,
)
from pathline.backbones.token_routing import drawer
from pathline.config.layers import to_tree
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.evaluation.hooks import Ready, hooks_of
from pathline.objectives.with_route import routed
from pathline.runs import contrastive_mean as pushed
from pathline.runs import folder as runs
from pathline.runs import init_weights as beginning
from pathline.runs.dataset import Data
from pathline.runs.feed import batch_of, feeder, first_rows, found
from pathline.runs.from_cache import adopted
from pathline.runs.launch import launch
from pathline.runs.resume import restored, resumed, same_facts, same_optimizer
from pathline.runs.saver import Saver, saver
from pathline.runs.signals import signals
from pathline.tables import TABLES
from pathline.training import optim
from pathline.training.device import Precision, pick_device, pick_precision
from pathline.training.distributed import ALONE, World, agreed, joined, number, told, wrap
from pathline.training.ema import exponential
from pathline.training.loop import Hook, Outcome, Progress
from pathline.training.loop import train as loop
from pathline.training.players import Lane, Player
from pathline.training.power_ema import power_function
from pathline.training.probes import probes, timed
from pathline.training.progress import screen
from pathline.training.trackers import dashboards as boards
from pathline.training.trackers.jsonl import Tracker
from pathline.types import Batch

EXIT = {"done": 0, "diverged": 3, "interrupted": 130}


class Trained(NamedTuple):
    """What a training leaves in memory for a recipe that goes on with it."""

    folder: Path
    parts: Parts
    data: Data
    player: Player
    outcome: Outcome


def train(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    resume: str | None = None,
    out: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    procs: int = 1,
    debug: bool = False,
) -> int:
    """Train a flow on a preset's data or on your own pictures.

    Parameters
    ----------
    what:
        A preset (`pathline config list`) or a folder, parquet or tar file of your own pictures.
    overrides:
        Settings as key=value, such as train.updates=2000 or objective.prediction=x1.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    resume:
        "latest", a run folder or one of its checkpoints.
    out:
        The new run's folder; by default runs/NAME-1, -2, …
    seed:
        Settles weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    procs:
        Processes on this machine, one a GPU; more machines: docs/many-gpus.md.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    console = Console(quiet=number() > 0)
    say = partial(console.print, soft_wrap=True, highlight=False)
    if what and resume and "=" in what:  # `--resume RUN train.updates=5`: no preset was named
        what, overrides = None, (what, *overrides)
    opened = resumed(resume, what, out, say)
    flags = {"seed": seed, "device": device}
    base = opened.folder / runs.SETTINGS if opened else None
    what = None if opened else what
    settings = read(what, config, overrides, flags, base=base, tables=TABLES)
    run = beginning.settled(adopted(settings), opened, say)
    check_settings(run)
    boards.refuse(run.train.trackers)
    if procs != 1:
        return launch(procs, run, say)
    trained = run_training(run, out, opened, console)
    if trained.outcome.reason == "done":
        say(f"next: pathline generate {trained.folder}")
    return EXIT[trained.outcome.reason]


def run_training(
    run: Run, out: Path | None, opened: runs.Opened | None, console: Console
) -> Trained:
    """The program of a training run, from settings to its last checkpoint."""
    with joined(run.train.strategy, pick_device(run.device)) as (world, device):
        first = world.rank == 0
        where = opened.folder if opened else told(runs.fresh(run.name, out) if first else None)
        if not first:
            console = Console(quiet=True)
        with runs.gone_if_empty(where):
            return _run(run, where, opened, world, device, console)


def _run(
    run: Run,
    where: Path,
    opened: runs.Opened | None,
    world: World,
    device: torch.device,
    console: Console,
) -> Trained:
    say = partial(console.print, soft_wrap=True, highlight=False)
    first = world.rank == 0
    run, facts, data_for = found(run, where / runs.UNREADABLE if first else None, console)
    if opened:
        same_facts(opened, facts)
        same_optimizer(opened, run)
    parts = assemble(run, facts)
    saved = opened.saved if opened else None
    beginning.begin(run, parts, saved, say)
    put_on(parts, device)
    data = data_for(parts)
    parts = parts._replace(push=pushed.known(run, parts, data, device, saved))
    criterion, by_time = timed(parts.criterion)
    watched = parts._replace(criterion=criterion) if run.train.probe_every else parts
    precision = pick_precision(run.train.precision, device)
    player = player_of(run, watched, precision, device, world)
    feed = feeder(run, data, device, world)
    ready = Ready(run, parts, data, player, where, device, world, console, say)
    # Stacking and encoding stay outside of autocast, which refuses to mix fp16 with bf16.
    batch = batch_of(data, first_rows(data, 2), device, seen=True)
    with precision.autocast():
        _rehearse(parts, batch)
    hooks_from = hooks_of(ready)
    start = restored(player, opened, world, say)  # what it refuses must leave run.yaml alone
    texts = runs.write(where, run, facts) if first else {}
    _introduce(ready, precision, start)
    save = saver(where, run, texts, player, world, more=pushed.kept(parts.push))
    with signals() as stopped:  # until the last checkpoint is there
        with (
            screen(console, run.train.updates, start.update) as (tick, show),
            _tracker(ready, start) as tracker,
        ):
            feed, probe = probes(player, feed, tracker.numbers, run.train.probe_every, more=by_time)
            hooks = [tick, probe, *hooks_from(start, tracker, save, show)]
            outcome = _looped(ready, feed, start, hooks, stopped)
        _finish(save, outcome, where, say)
    return Trained(where, parts, data, player, outcome)


@contextmanager
def _tracker(ready: Ready, start: Progress) -> Iterator[Tracker]:
    """Where numbers and pictures go; nowhere from ranks after the first."""
    if ready.world.rank > 0:
        yield Tracker(_nowhere, _nowhere, _nowhere)
        return
    names, settings = ready.run.train.trackers, to_tree(ready.run)
    tracker = boards.opened(
        names, ready.where, ready.where.name, settings, ready.say, resumed_at=start.update
    )
    try:
        yield tracker
    finally:
        tracker.close()


def _nowhere(*_: Any) -> None:
    """What ranks after the first track."""


def _finish(save: Saver, outcome: Outcome, where: Path, say: Callable[[str], None]) -> None:
    if outcome.progress.update:
        save.save(outcome.progress)
        save.settle()
        latest = (where / runs.LATEST).read_text().strip() if (where / runs.LATEST).exists() else ""
        say(f"{outcome.reason} at update {outcome.progress.update}: {where / latest}")


@torch.no_grad()
def _rehearse(parts: Parts, batch: Batch) -> None:
    """The first and last loss of two images and a validation loss, so that errors come now."""
    rng, loss = torch.Generator(batch.x1.device).manual_seed(0), parts.objective.loss
    for done in (0.0, 1.0):
        loss(parts.network, batch._replace(done=done), rng, parts.draw, parts.criterion)
    loss(parts.network, batch, rng, parts.draw_at(0.5), parts.criterion, training=False)


def player_of(
    run: Run, parts: Parts, precision: Precision, device: torch.device, world: World = ALONE
) -> Player:
    """The one player of a plain training."""
    network = parts.network.to(device)
    wrapped = wrap(network, world, precision=precision.name, compiled=run.train.compile)
    loss = partial(parts.objective.loss, draw=parts.draw, criterion=parts.criterion)
    loss = routed(loss, drawer(network))
    return Player(
        name="network",
        network=network,
        forward=wrapped.forward,
        optimizer=optimizer(run, network),
        loss=loss,
        rate=rate(run),
        precision=precision,
        clip=run.train.clip,
        emas=[
            *(exponential(network, decay) for decay in run.train.ema),
            *(power_function(network, length) for length in run.train.power_ema),
        ],
        gradient_sync=wrapped.gradient_sync,
    )


def _looped(
    ready: Ready,
    feed: Callable[[Progress], Sequence[Lane]],
    start: Progress,
    hooks: Sequence[Hook],
    stopped: Callable[[], bool],
) -> Outcome:
    run, world, player = ready.run, ready.world, ready.player
    whose = f"process {world.rank}: " if world.size > 1 else ""
    console = Console(stderr=True) if world.rank else ready.console

    def complain(progress: Progress, fault: str, lanes: Sequence[Lane]) -> None:
        rows = [row for batch, _ in lanes for row in batch.keys.tolist()]
        names = ", ".join(ready.data.keys[row] for row in rows[:8])
        console.print(
            f"{whose}update {progress.update} not taken: {fault}; its pictures: {names} …"
        )

    return loop(
        [player],
        feed,
        start,
        updates=run.train.updates,
        batch=run.train.batch,
        hooks=hooks,
        stopped=lambda: agreed(stopped()),
        complain=complain,
    )


def _introduce(ready: Ready, precision: Precision, start: Progress) -> None:
    run, data, network, say = ready.run, ready.data, ready.player.network, ready.say
    count = sum(p.numel() for p in network.parameters())
    say(f"{run.name}: {len(data.train)} pictures ({len(data.held)} held out), {count:,} parameters")
    say(f"optimizer {optim.told(network, ready.player.optimizer)}")
    say(
        f"text {run.text.name}, precision {precision.name} ({precision.why}), "
        f"run folder {ready.where}"
    )
    for warning in warnings_of(run):
        say(f"warning: {warning}")
    if start.update:
        say(
            f"resumed at update {start.update} of {run.train.updates}, {start.images} pictures seen"
        )
    if start.update >= run.train.updates:
        say("nothing is left to do: raise train.updates to go on")
