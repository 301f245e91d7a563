"""Train a flow: settings, data, parts, player, hooks, loop, top to bottom."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pathline.assemble import Parts, assemble, optimizer, problems_of, rate
from pathline.config.read import read
from pathline.config.run import Run
from pathline.recipes import folder as runs
from pathline.recipes.prepare import (
    batch_of,
    data_of,
    facts_of,
    feeder,
    held_out,
    pictures_of,
    source_of,
)
from pathline.recipes.samples import sample_hook
from pathline.training import checkpoint
from pathline.training.ema import Ema
from pathline.training.hooks import every, logger, validator
from pathline.training.loop import Hook, Outcome, Progress
from pathline.training.loop import train as loop
from pathline.training.parallel import Precision, pick_device, pick_precision
from pathline.training.players import Lane, Player, restore, state_of, tensors_of
from pathline.training.screen import screen
from pathline.training.trackers import jsonl
from pathline.types import Batch, Facts

EXIT = {"done": 0, "diverged": 3, "interrupted": 130}
VALIDATION_TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Trained(NamedTuple):
    """What a training leaves in memory for a recipe that goes on with it."""

    folder: Path
    parts: Parts
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
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    console = Console()
    if what and resume and "=" in what:  # `--resume RUN train.updates=5`: no preset was named
        what, overrides = None, (what, *overrides)
    opened = _resumed(resume, what, out, console)
    flags = {"seed": seed, "device": device}
    base = opened.folder / runs.SETTINGS if opened else None
    what = None if opened else what
    settings = read(what, config, overrides, flags, base=base, check=problems_of)
    trained = run_training(settings.run, out, opened, console)
    if trained.outcome.reason == "done":
        console.print(f"next: pathline generate {trained.folder}", soft_wrap=True)
    return EXIT[trained.outcome.reason]


def run_training(
    run: Run, out: Path | None, opened: runs.Opened | None, console: Console
) -> Trained:
    """The program of a training run, from settings to its last checkpoint."""
    device = pick_device(run.device)
    run, source = source_of(run)
    where = opened.folder if opened else runs.fresh(run.name, out)
    pictures = pictures_of(run, source, where / runs.UNREADABLE, console)
    run, facts = facts_of(run, pictures)
    if opened:
        _same_facts(opened, facts)
    parts = assemble(run, facts)
    data = data_of(run, parts, pictures)
    precision = pick_precision(run.train.precision, device)
    player = player_of(run, parts, precision, device)
    _rehearse(parts, batch_of(data, parts, data.train[:2], None, device))
    samples = list(sample_hook(run, parts, data, player, where / "samples", precision.autocast))
    texts = runs.write(where, run, facts)
    start = _restored(player, opened)
    _introduce(run, data, player, precision, where, start, console)
    with screen(console, run.train.updates, start.update) as (tick, show):
        track = jsonl(where / "metrics.jsonl", resumed_at=start.update)
        save = partial(_save, where, run, texts, player)
        hooks = [
            tick,
            logger([player], track, show, run.train.log_every, last=run.train.updates),
            *_validation(run, parts, data, player, track, show, device),
            every(run.train.save_every, lambda progress, _: _attempt(save, progress, console)),
            *samples,
        ]
        outcome = _looped(run, parts, data, player, start, hooks, device, console)
    if outcome.progress.update:
        saved = save(outcome.progress)
        console.print(
            f"{outcome.reason} at update {outcome.progress.update}: {saved}", soft_wrap=True
        )
    return Trained(where, parts, player, outcome)


@torch.no_grad()
def _rehearse(parts: Parts, batch: Batch) -> None:
    """One loss of two pictures, thrown away: what can't work is refused before a run is written."""
    rng = torch.Generator(batch.x1.device).manual_seed(0)
    parts.objective.loss(parts.network, batch, rng, parts.draw, parts.criterion)


def player_of(run: Run, parts: Parts, precision: Precision, device: torch.device) -> Player:
    """The one player of a plain training."""
    network = parts.network.to(device)
    forward = torch.compile(network) if run.train.compile else network
    loss = partial(parts.objective.loss, draw=parts.draw, criterion=parts.criterion)
    return Player(
        name="network",
        network=network,
        forward=forward,
        optimizer=optimizer(run, network),
        loss=loss,
        rate=rate(run),
        precision=precision,
        clip=run.train.clip,
        emas=[Ema(network, decay) for decay in run.train.ema],
    )


def _looped(
    run: Run,
    parts: Parts,
    data: Any,
    player: Player,
    start: Progress,
    hooks: Sequence[Hook],
    device: torch.device,
    console: Console,
) -> Outcome:
    def complain(progress: Progress, fault: str, lanes: Sequence[Lane]) -> None:
        rows = [row for batch, _ in lanes for row in batch.keys.tolist()]
        names = ", ".join(data.pictures.keys[row] for row in rows[:8])
        console.print(f"update {progress.update} not taken: {fault}; its pictures: {names} …")

    with _signals() as stopped:
        return loop(
            [player],
            feeder(run, data, parts, device),
            start,
            updates=run.train.updates,
            batch=run.train.batch,
            hooks=hooks,
            stopped=stopped,
            complain=complain,
        )


def _validation(run, parts, data, player, track, show, device) -> Iterator[Hook]:
    if not run.train.validate_every or not len(data.held):
        return
    loss_at = {
        t: partial(
            parts.objective.loss, draw=parts.draw_at(t), criterion=parts.criterion, dropout=0.0
        )
        for t in VALIDATION_TIMES
    }
    batches = held_out(run, data, parts, device)
    hook = validator(player, loss_at, batches, track, show, ema=player.emas[0])
    yield every(run.train.validate_every, hook, last=run.train.updates)


def _save(where: Path, run: Run, texts: dict[str, str], player: Player, progress: Progress) -> Path:
    state = {"progress": progress._asdict(), "players": {player.name: state_of(player)}}
    return runs.save(where, progress.update, tensors_of(player), state, texts, run)


def _attempt(save: Callable[[Progress], Path], progress: Progress, console: Console) -> None:
    """Save; a disk that is full now may not be at the next save, so training goes on."""
    try:
        save(progress)
    except OSError as error:
        console.print(f"[red]update {progress.update} was not saved:[/red] {error}", soft_wrap=True)


def _resumed(resume: str | None, what: str | None, out: Path | None, console: Console):
    """The run to go on with, or None for a new one."""
    if resume is None:
        return None
    latest = resume == runs.LATEST
    where = (out or runs.newest_run(what)) if latest else Path(resume)
    opened = runs.open_run(where, lambda text: console.print(f"warning: {text}", soft_wrap=True))
    if what and opened.run.name != what and not latest:
        raise ValueError(f"{where} is a run of {opened.run.name!r}; leave out {what!r}.")
    if not latest and out and out != opened.folder:
        raise ValueError("--resume goes on in the run's own folder; leave out --out.")
    newest = checkpoint.newest(opened.folder / "checkpoints", lambda _: None)
    if newest != opened.checkpoint:
        raise ValueError(
            f"{opened.folder} has a newer checkpoint, {newest}; going on from "
            f"{opened.checkpoint.name} would mix the two. Copy the run folder without the newer."
        )
    return opened


def _restored(player: Player, opened: runs.Opened | None) -> Progress:
    if opened is None:
        return Progress()
    found = checkpoint.load(opened.checkpoint)
    restore(player, found.tensors, found.state["players"][player.name])
    return Progress(**found.state["progress"])


def _same_facts(opened: runs.Opened, facts: Facts) -> None:
    for name, was, now in zip(facts._fields, opened.facts, facts, strict=True):
        if was != now:
            raise ValueError(
                f"The data is not what this run was trained on: {name} was {was}, is {now}. "
                "Start a new run with --out."
            )


def _introduce(run, data, player, precision, where, start, console: Console) -> None:
    count = sum(p.numel() for p in player.network.parameters())
    say = partial(console.print, soft_wrap=True, highlight=False)
    say(f"{run.name}: {len(data.train)} pictures ({len(data.held)} held out), {count:,} parameters")
    say(f"text {run.text.name}, precision {precision.name} ({precision.why}), run folder {where}")
    if start.update:
        say(
            f"resumed at update {start.update} of {run.train.updates}, {start.images} pictures seen"
        )
    if start.update >= run.train.updates:
        say("nothing is left to do: raise train.updates to go on")


@contextmanager
def _signals() -> Iterator[Any]:
    """A function that tells whether Ctrl-C or SIGTERM came; a second Ctrl-C stops at once."""
    caught: list[int] = []

    def catch(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
