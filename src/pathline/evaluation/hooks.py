"""What happens between the updates of a run: logs, validation, saves, samples, measurements."""

from collections.abc import Callable, Iterable, Iterator

from pathline.evaluation.codec_hook import codec_measurements
from pathline.evaluation.eval_hook import eval_hook, prepare_evaluation
from pathline.runs.dataset import TrainingContext
from pathline.runs.feed import held_out
from pathline.runs.folder import AVERAGES
from pathline.runs.sample_hook import prepare_grid, sampling_hook
from pathline.runs.saver import Saver, attempt
from pathline.training.hooks import Show, every, logger, snapshot_hook, validator
from pathline.training.loop import Feed, Hook, Progress
from pathline.training.power_ema import forget
from pathline.training.probes import probe_team
from pathline.training.trackers.jsonl import Tracker

HooksFrom = Callable[[Feed, Progress, Tracker, Saver, Show], tuple[Feed, list[Hook]]]
Measurements = Callable[[Tracker, Saver, Show], Iterable[Hook]]


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
