"""Train: settings, data, networks, hooks, loop, from top to bottom; for every method."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pathline.config.layers import to_tree
from pathline.console import open_console, say_on
from pathline.evaluation.codec_hook import codec_measurements
from pathline.evaluation.eval_hook import eval_hook, prepare_evaluation
from pathline.runs import folder as runs
from pathline.runs.dataset import Dataset, TrainingContext, first_rows
from pathline.runs.feed import batch_of, held_out
from pathline.runs.folder import AVERAGES
from pathline.runs.launch import signals
from pathline.runs.methods import METHODS, Say
from pathline.runs.resume import find_run, require_same_run, restore_players
from pathline.runs.sample_hook import prepare_grid, sampling_hook
from pathline.runs.saver import Saver, attempt, latest_checkpoint, save_last, saver
from pathline.training.device import pick_device, pick_precision
from pathline.training.distributed import World, agreed, broadcast, joined
from pathline.training.hooks import Show, every, logger, snapshot_hook, validator
from pathline.training.loop import Feed, Hook, Outcome, Progress, train_players
from pathline.training.power_ema import forget
from pathline.training.probes import probe_team
from pathline.training.progress import complaints, introduce, introduce_progress, screen
from pathline.training.team import Placement, Team, measured_precision, rehearse
from pathline.training.trackers import dashboards
from pathline.training.trackers.jsonl import Tracker

HooksFrom = Callable[[Feed, Progress, Tracker, Saver, Show], tuple[Feed, list[Hook]]]
Measurements = Callable[[Tracker, Saver, Show], Iterable[Hook]]
EXIT = {"done": 0, "diverged": 3, "interrupted": 130}


class Trained(NamedTuple):
    """What a training leaves in memory, for a program that continues with it."""

    folder: Path
    run: Any
    parts: Any  # of a flow: Parts; of a codec: its autoencoder
    data: Dataset
    team: Team
    outcome: Outcome


def read_command(
    method: str, layers: runs.Layers, *, resume: str | None, out: Path | None, say: Say
) -> tuple[Any, runs.Opened | None]:
    """The settings of a command, and the run that it resumes, if it does."""
    kind, preset = METHODS[method].kind, layers.preset
    if preset and resume and "=" in preset:  # `--resume RUN train.updates=5`: a setting, no preset
        layers = layers._replace(preset=None, overrides=(preset, *layers.overrides))
    opened = find_run(resume, layers.preset, out, say, kind)
    if opened:
        layers = layers._replace(preset=None, base=opened.folder / kind.settings)
    run = METHODS[method].read_settings(layers, opened, say)
    dashboards.refuse(run.train.trackers)
    return run, opened


def run_training(
    run: Any,
    out: Path | None,
    opened: runs.Opened | None,
    console: Console,
    *,
    method: str = "flow",
) -> Trained:
    """Train from settings to the last checkpoint, as one of the run's processes."""
    with joined(run.train.strategy, pick_device(run.device)) as (world, device):
        is_first = world.rank == 0
        if opened:
            folder = opened.folder
        else:
            # The first process makes the folder; all write to the same.
            folder = broadcast(runs.fresh(run.name, out) if is_first else None)
        if not is_first:
            console = open_console(quiet=True)
        # One training at a time in a folder; one that is refused before its first file leaves none.
        with runs.held(folder, is_first=is_first):
            context = prepare(
                method, run, folder, opened, console=console, device=device, world=world
            )
            return _train(context, opened)


def prepare(
    method: str,
    run: Any,
    folder: Path,
    opened: runs.Opened | None,
    *,
    console: Console,
    device: torch.device,
    world: World,
) -> TrainingContext:
    """Data, parts and players of a run. Raises ValueError for what does not fit together."""
    steps = METHODS[method]
    say = say_on(console)

    # The data decides some settings: its source, text=auto, sizes.
    loaded = steps.load_data(run, folder / runs.UNREADABLE if world.rank == 0 else None, console)
    run = loaded.run
    if opened:
        require_same_run(opened, run, loaded.facts)

    # Networks with initial weights, then the examples encoded for them.
    parts, data = steps.build_parts(loaded, opened.saved if opened else None, device, say)

    # Players: those networks on their device, wrapped for the strategy, with optimizers.
    precision = pick_precision(run.train.precision, device)
    placement = Placement(device, precision, world, run.train.compile)
    team = steps.build_players(run, parts, placement)
    return TrainingContext(
        method, run, loaded.facts, parts, data, team, folder, placement, console, say
    )


def _train(context: TrainingContext, opened: runs.Opened | None) -> Trained:
    data, folder, say = context.data, context.folder, context.say
    device, _, world, _ = context.placement
    steps = METHODS[context.method]

    # Everything that can be refused is refused before the run folder is written.
    feed = steps.feeder(context.run, data, device, world)
    rehearse(context.team, batch_of(data, first_rows(data, 2), device, with_features=True))
    context = settle_precision(context)
    run, team = context.run, context.team
    hooks_from = prepare_hooks(context)
    # The players exist, on their device and sharded: a checkpoint is copied into them.
    start = restore_players(team.players, opened, world, say)
    is_first = world.rank == 0
    texts = runs.write(folder, run, context.facts, steps.kind) if is_first else {}
    _introduce(context, start)

    # Signals end the loop between two updates, and the last checkpoint is still written.
    save = saver(folder, run, texts, team.players, world, tensors=team.tensors)
    trackers = dashboards.open_trackers(
        run.train.trackers, folder, to_tree(run), say, resumed_at=start.update, writes=is_first
    )
    with signals() as stopped:
        bar = screen(context.console, run.train.updates, start.update)
        with bar as (tick, show), trackers as tracker:
            feed, hooks = hooks_from(feed, start, tracker, save, show)
            outcome = _loop(context, feed, start, hooks=[tick, *hooks], stopped=stopped)
            # Saved whatever ended the loop, before a tracker or the screen can fail; a diverged
            # run has the weights before its first bad update.
            if outcome.progress.update:
                save_last(save, outcome.progress, folder, steps.kind)
    if outcome.progress.update:
        say(f"{outcome.reason} at update {outcome.progress.update}: {latest_checkpoint(folder)}")
    if outcome.reason == "interrupted":
        say(f"go on with: {runs.resume_line(folder, steps.kind)}")
    return Trained(folder, run, context.parts, data, team, outcome)


def settle_precision(context: TrainingContext) -> TrainingContext:
    """The number format of train.precision=auto, written into the settings, so that a resumed run
    keeps it on a machine where another one would be faster."""
    run, data, team, placement = context.run, context.data, context.team, context.placement
    precision = placement.precision
    # Sharded, compiled and replicated networks are wrapped for their format before it is measured.
    is_plain = placement.world.size == 1 and not placement.compiled
    if run.train.precision == "auto" and placement.device.type == "cpu" and is_plain:
        rows = first_rows(data, run.train.batch // run.train.accumulate)
        batch = batch_of(data, rows, placement.device, with_features=True)
        context.say("measuring whether bf16 is faster here …")
        precision = measured_precision(team, batch)
        players = [replace(player, precision=precision) for player in team.players]
        team = team._replace(players=players)
    run = replace(run, train=replace(run.train, precision=precision.name))
    placement = placement._replace(precision=precision)
    return context._replace(run=run, team=team, placement=placement)


def _loop(
    context: TrainingContext,
    feed: Feed,
    start: Progress,
    *,
    hooks: Sequence[Hook],
    stopped: Callable[[], bool],
) -> Outcome:
    """The loop of all players. A fault is printed by the process it occurs in."""
    run, world = context.run, context.placement.world
    console = open_console(stderr=True) if world.rank else context.console
    prefix = f"process {world.rank}: " if world.size > 1 else ""
    return train_players(
        context.team.players,
        feed,
        start,
        updates=run.train.updates,
        batch=run.train.batch,
        hooks=hooks,
        # All ranks stop after the same update, or the others would wait in a collective.
        stopped=lambda: agreed(stopped()),
        complain=complaints(lambda text: console.print(prefix + text), context.data.keys),
    )


def _introduce(context: TrainingContext, start: Progress) -> None:
    """Print what is trained on what, warnings, and where a resumed run continues."""
    run, data, say, steps = context.run, context.data, context.say, METHODS[context.method]
    precision = context.placement.precision
    title = f"{run.name}: training on {len(data.train):,} images"
    title += f", {len(data.held):,} held out for validation" if len(data.held) else ""
    details = (
        f"{steps.describe(run, context.parts)}; precision {precision.name} ({precision.reason})"
    )
    introduce(context.team, say, title=title, details=f"{details}; run folder: {context.folder}")
    for warning in steps.warnings(run):
        say(f"warning: {warning}")
    introduce_progress(start, run.train.updates, say)


def prepare_hooks(context: TrainingContext) -> HooksFrom:
    """A function that makes a run's hooks, and the feed that the probes watch.

    Raises ValueError, before anything is written, for what cannot be sampled or measured.
    """
    measurements = MEASUREMENTS[context.method](context)
    team, train = context.team, context.run.train

    def hooks(
        feed: Feed, start: Progress, tracker: Tracker, saver: Saver, show: Show
    ) -> tuple[Feed, list[Hook]]:
        feed, probes = probe_team(team, feed, tracker.numbers, train.probe_every)
        # In this order: a codebook moves, then values are logged, then weights saved and sampled.
        return feed, [
            *probes,
            *team.hooks,
            logger(team.players, tracker.numbers, show, train.log_every, last=train.updates),
            *_snapshots(context, start),
            *_validation(context, tracker, show),
            every(train.save_every, lambda p, _: attempt(saver, p, context.console)),
            *measurements(tracker, saver, show),
        ]

    return hooks


def flow_measurements(context: TrainingContext) -> Measurements:
    """Sample grids and the evaluation of a flow, by its first player."""
    run, parts, data, player = context.run, context.parts, context.data, context.team.players[0]
    world, say = context.placement.world, context.say
    grid = prepare_grid(run, parts, data, player, player.precision.autocast)
    evaluation = prepare_evaluation(run, parts, data, player, player.precision.autocast, say)

    def hooks(tracker: Tracker, saver: Saver, _: Show) -> Iterator[Hook]:
        def save(progress: Progress) -> None:
            # Settled, since the best checkpoint is named right after it.
            attempt(saver, progress, context.console, settled=True)

        yield from sampling_hook(grid, context.folder / "samples", tracker, world, say)
        yield from eval_hook(evaluation, context.folder, tracker.numbers, save, say)

    return hooks


def _snapshots(context: TrainingContext, start: Progress) -> Iterator[Hook]:
    """Power averages, stored; later ones than `start`, which will be stored again, are deleted."""
    averages = [ema for player in context.team.players for ema in player.emas if ema.sigma_rel]
    if not averages:
        return
    folder, train = context.folder / AVERAGES, context.run.train
    is_first = context.placement.world.rank == 0
    if is_first:
        forget(folder, after=start.update)
    keep = snapshot_hook(averages, folder, context.say, writes=is_first)
    yield every(train.snapshot_every, keep, last=train.updates)


def _validation(context: TrainingContext, tracker: Tracker, show: Show) -> Iterator[Hook]:
    """The losses of the first player on held-out images, with its first average."""
    run, losses, player = context.run, context.team.validation, context.team.players[0]
    if not run.train.validate_every or not losses or not len(context.data.held):
        return
    batches = held_out(run, context.data, context.placement.device)
    ema = player.emas[0] if player.emas else None
    hook = validator(player, losses, batches, tracker.numbers, show, ema=ema)
    yield every(run.train.validate_every, hook, last=run.train.updates)


MEASUREMENTS: dict[str, Callable[[TrainingContext], Measurements]] = {
    "flow": flow_measurements,
    "codec": codec_measurements,
}
