"""Train a codec: settings, pictures, network, players, hooks, loop, and the codec it becomes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from pathline.codecs.autoencoder import Autoencoder
from pathline.codecs.own import NETWORKS, SETTINGS, store
from pathline.codecs.pixel import encode
from pathline.config.codec_run import AUTO, PLACES, CodecRun, picks_of, problems
from pathline.config.layers import to_tree
from pathline.config.pick import Pick, bind, options_of
from pathline.config.presets.codecs import CODEC_PRESETS
from pathline.config.resolve import Root, read_as
from pathline.config.run import Data, Run
from pathline.config.values import convert
from pathline.data.decoded import Pictures
from pathline.evaluation.codec_hook import Eye, looks, measured, statistics
from pathline.recipes.train import EXIT
from pathline.runs import folder as runs
from pathline.runs.codec_feed import feeder, source_of
from pathline.runs.codec_players import codebook_hook, listening, players_of
from pathline.runs.dataset import split
from pathline.runs.from_pictures import load_pictures
from pathline.runs.resume import restored, resumed, same_facts, same_optimizer
from pathline.runs.saver import Saver, attempt, saver
from pathline.runs.signals import signals
from pathline.tables import TABLES
from pathline.training.device import pick_device, pick_precision
from pathline.training.distributed import ALONE
from pathline.training.hooks import Show, every, logger
from pathline.training.loop import Hook, Outcome, Progress
from pathline.training.loop import train as loop
from pathline.training.players import Lane, Player
from pathline.training.progress import screen
from pathline.training.trackers import dashboards as boards
from pathline.training.trackers.jsonl import Tracker
from pathline.types import Batch, Cond, Facts

FAINT = 0.1  # a channel of less than this share of the greatest deviation is told of
TABLE: dict[str, Any] = {**TABLES, "network": NETWORKS}
ROOT = Root(
    CodecRun,
    CODEC_PRESETS,
    problems,
    picks_of,
    PLACES,
    AUTO,
    f"A codec's run folder has every setting in {SETTINGS}.",
)
KIND = runs.Kind(SETTINGS, ROOT, "pathline codec train")


class Ready(NamedTuple):
    """A codec that is about to be trained."""

    run: CodecRun
    pictures: Pictures
    players: list[Player]
    eye: Eye
    where: Path
    device: torch.device
    console: Console
    say: Callable[[str], None]


def codec_train(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    resume: str | None = None,
    out: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    debug: bool = False,
) -> int:
    """Train a codec on a preset's data or on your own pictures; `codec.path` then names its run.

    Parameters
    ----------
    what:
        shapes-kl, shapes-vq, shapes-fsq, digits-vq, emoji-kl, or a folder, parquet or tar file.
    overrides:
        Settings as key=value, such as train.updates=2000 or network.channels=8.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    resume:
        "latest", a codec's run folder or one of its checkpoints.
    out:
        The new run's folder; by default runs/NAME-1, -2, …
    seed:
        Settles weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    console = Console()
    say = partial(console.print, soft_wrap=True, highlight=False)
    if what and resume and "=" in what:  # `--resume RUN train.updates=5`: no preset was named
        what, overrides = None, (what, *overrides)
    opened = resumed(resume, what, out, say, KIND)
    flags = {"seed": seed, "device": device}
    base = opened.folder / SETTINGS if opened else None
    what = None if opened else what
    run = read_as(ROOT, what, config, overrides, flags, base=base, tables=TABLE).run
    boards.refuse(run.train.trackers)
    return EXIT[train(run, out, opened, console).reason]


def train(
    run: CodecRun, out: Path | None, opened: runs.Opened[CodecRun] | None, console: Console
) -> Outcome:
    """The program of a codec's training, from settings to codec.json."""
    where = opened.folder if opened else runs.fresh(run.name, out)
    with runs.gone_if_empty(where):
        return _train(run, where, opened, console)


def _train(
    run: CodecRun, where: Path, opened: runs.Opened[CodecRun] | None, console: Console
) -> Outcome:
    device = pick_device(run.device)
    say = partial(console.print, soft_wrap=True, highlight=False)
    run, source = source_of(run)
    pictures = load_pictures(run.data, source, where / runs.UNREADABLE, console)
    _, channels, height, width = pictures.pixels.shape
    facts = Facts(channels, height, width)
    if opened:
        same_facts(opened, facts)
        same_optimizer(opened, run)
    ready = _ready(run, pictures, where, device, console)
    _rehearse(ready)
    codec, *beside = ready.players
    start = restored(codec, opened, ALONE, say, beside=beside)  # if refused, codec.yaml stays
    texts = runs.write(where, run, facts, KIND)
    save = saver(where, run, texts, codec, ALONE, beside=beside)
    _introduce(ready, start)
    tracker = boards.opened(
        run.train.trackers, where, where.name, to_tree(run), say, resumed_at=start.update
    )
    with signals() as stopped:  # until the last checkpoint is there
        try:
            with screen(console, run.train.updates, start.update) as (tick, show):
                hooks = [tick, *_hooks(ready, tracker, save, show)]
                outcome = _looped(ready, start, hooks, stopped)
        finally:
            tracker.close()
        _finish(ready, save, outcome)
    return outcome


def _ready(
    run: CodecRun, pictures: Pictures, where: Path, device: torch.device, console: Console
) -> Ready:
    with torch.random.fork_rng(devices=[]):  # the first weights are a function of the seed alone
        torch.manual_seed(run.seed)
        network: Autoencoder = bind(NETWORKS, run.network, PLACES["network"])(run.data.channels)
    players = players_of(run, network, pick_precision(run.train.precision, device), device)
    train, held = split(Run(data=Data(holdout=run.data.holdout)), len(pictures.pixels))

    def pixels(rows: Tensor) -> Tensor:
        return pictures.pixels.index_select(0, rows).to(device, non_blocking=True)

    eye = Eye(run, network, players[0].emas[0], pixels, train, held if len(held) else train)
    say = partial(console.print, soft_wrap=True, highlight=False)
    return Ready(run, pictures, players, eye, where, device, console, say)


@torch.no_grad()
def _rehearse(ready: Ready) -> None:
    """A pass of two pictures, thrown away: what can't work is refused before a run is written."""
    x = encode(ready.eye.pixels(ready.eye.train[:2]))
    rng = torch.Generator(ready.device).manual_seed(0)
    batch = Batch(x, Cond(), Cond(), ready.eye.train[:2])
    for player in ready.players:
        with player.precision.autocast():
            player.loss(player.network, batch, rng)


def _hooks(ready: Ready, tracker: Tracker, save: Saver, show: Show) -> list[Hook]:
    """The codes move first, so that what is measured and saved is whole."""
    train = ready.run.train
    return [
        codebook_hook(ready.run, ready.eye.network, ready.device),
        logger(ready.players, tracker.numbers, show, train.log_every, last=train.updates),
        every(train.save_every, lambda p, _: attempt(save, p, ready.console)),
        *looks(ready.eye, ready.where / "samples", tracker, show, ready.say),
    ]


def _looped(
    ready: Ready, start: Progress, hooks: Sequence[Hook], stopped: Callable[[], bool]
) -> Outcome:
    """First the autoencoder alone; from critic.begin on it and its critic."""
    run = ready.run
    feed = feeder(run, ready.eye.pixels, ready.eye.train, ready.device)
    begin = min(run.critic.begin, run.train.updates) if run.critic.weight else run.train.updates

    def complain(progress: Progress, fault: str, lanes: Sequence[Lane]) -> None:
        rows = [row for batch, _ in lanes for row in batch.keys.tolist()]
        names = ", ".join(ready.pictures.keys[row] for row in rows[:8])
        ready.say(f"update {progress.update} not taken: {fault}; its pictures: {names} …")

    ways = {"batch": run.train.batch, "hooks": hooks, "stopped": stopped, "complain": complain}
    outcome = loop(ready.players[:1], feed, start, updates=begin, **ways)
    if outcome.reason != "done" or begin == run.train.updates:
        return outcome
    listening(run, ready.players, ready.device)
    return loop(ready.players, feed, outcome.progress, updates=run.train.updates, **ways)


def _introduce(ready: Ready, start: Progress) -> None:
    run, eye, say = ready.run, ready.eye, ready.say
    count = sum(p.numel() for p in eye.network.parameters())
    held, size = len(ready.pictures.pixels) - len(eye.train), run.data.size
    side = size // eye.network.factor
    say(
        f"{run.name}: {len(eye.train)} pictures ({held} held out), {size}x{size} to "
        f"{eye.network.channels}x{side}x{side}, {count:,} parameters, run folder {ready.where}"
    )
    if start.update:
        say(
            f"resumed at update {start.update} of {run.train.updates}, {start.images} pictures seen"
        )
    if start.update >= run.train.updates:
        say("nothing is left to do: raise train.updates to go on")


def _finish(ready: Ready, save: Saver, outcome: Outcome) -> None:
    """The last checkpoint; and the codec, if the training came to its end."""
    if outcome.progress.update:
        save.save(outcome.progress)
    ready.say(f"{outcome.reason} at update {outcome.progress.update}: {ready.where}")
    if outcome.reason != "done":
        return
    found = measured(ready.eye)
    with ready.eye.ema.lent_to(ready.eye.network):
        mean, std = statistics(ready.eye)
        store(
            ready.where,
            ready.eye.network,
            name=ready.run.network.name,
            options=_options(ready.run.network),
            mean=mean,
            std=std,
            measured={
                **found,
                "updates": outcome.progress.update,
                "pictures": len(ready.eye.train),
            },
        )
    _conclude(ready, found, std)


def _options(pick: Pick) -> dict[str, Any]:
    """Every option of a network's row, so that later defaults change nothing."""
    known = options_of(NETWORKS[pick.name])
    given = {key: convert(value, known[key].kind) for key, value in pick.options.items()}
    return {key: given.get(key, option.default) for key, option in known.items()}


def _conclude(ready: Ready, found: dict[str, float], std: Tensor) -> None:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    ready.say(f"codec: {numbers}  std {' '.join(f'{s:.3g}' for s in std.tolist())}")
    faint = [index for index, s in enumerate(std.tolist()) if s < FAINT * std.max()]
    if faint:
        ready.say(
            f"warning: latent channels {faint} hardly vary, and normalising would make noise of "
            "them: take fewer network.channels or a smaller network.kl"
        )
    ready.say(f"next: pathline train PRESET codec=trained codec.path={ready.where}")
