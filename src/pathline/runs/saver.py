"""Checkpoints of a run: written by rank 0, or by every rank its shards, in the background."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from pathline.errors import REFUSED, USAGE, PathlineError
from pathline.runs import folder as runs
from pathline.training import checkpoint
from pathline.training import sharded_checkpoint as shards
from pathline.training.distributed import World, broadcast, gathered
from pathline.training.loop import Progress
from pathline.training.players import Player, state_of, tensors_of
from pathline.weights import first_not_finite


class Saver(NamedTuple):
    """Both functions are called on every rank and raise OSError if a checkpoint is not written.

    save: raises PathlineError on every rank, and writes nothing, if weights are not finite.

    Under fsdp2 it returns before the last byte is written and raises for that checkpoint at
    the next call, after its own has begun. settle: waits for what is being written.
    """

    save: Callable[[Progress], None]
    settle: Callable[[], None]


class Contents(NamedTuple):
    """The files of a checkpoint."""

    tensors: Callable[[], checkpoint.Groups]
    state: Callable[[Progress], dict[str, Any]]
    texts: dict[str, str]


def saver(
    folder: Path,
    run: Any,
    texts: dict[str, str],
    players: Sequence[Player],
    world: World,
    *,
    tensors: checkpoint.Groups = MappingProxyType({}),
) -> Saver:
    """Whole checkpoints of these players and further `tensors`, in the run's folder.

    run: run.train decides which are kept.
    """
    root = folder / "checkpoints"

    # State and tensors are read when a save begins, not before.
    def state(progress: Progress) -> dict[str, Any]:
        return state_of_run(progress, world, {each.name: state_of(each) for each in players})

    def groups() -> dict[str, dict[str, Tensor]]:
        of_players = {file: group for each in players for file, group in tensors_of(each).items()}
        return {**of_players, **{file: dict(group) for file, group in tensors.items()}}

    def publish(update: int) -> None:
        runs.publish(folder, root / checkpoint.name(update), run)

    # Sharded: every rank writes its part in the background.
    if world.strategy == "fsdp2":
        sharded = _sharded(root, Contents(groups, state, texts), publish, world)
        return sharded._replace(save=partial(_save_finite, sharded.save, groups))

    def save_whole(progress: Progress) -> None:
        if world.rank == 0:
            checkpoint.save(root, progress.update, groups(), state(progress), texts)
            publish(progress.update)

    return Saver(partial(_save_finite, save_whole, groups), lambda: None)


def _save_finite(
    save: Callable[[Progress], None], groups: Callable[[], checkpoint.Groups], progress: Progress
) -> None:
    """Save, unless a weight or an average is not finite on any rank: it would replace good ones."""
    weights = {
        f"{stem}/{key}": x.to_local() if isinstance(x, DTensor) else x
        for stem, group in groups().items()
        for key, x in group.items()
        if not stem.endswith("-optimizer")
    }
    if names := [name for name in gathered(first_not_finite(weights)) if name]:
        raise PathlineError(
            f"The weights of update {progress.update} are not finite ({names[0]} has NaN or "
            "infinity in it), and were not saved. Lower optimizer.lr, or raise schedule.warmup.",
            REFUSED,
        )
    save(progress)


def state_of_run(progress: Progress, world: World, players: dict[str, Any]) -> dict[str, Any]:
    """The contents of a checkpoint's state.json."""
    return {"progress": progress._asdict(), "processes": world.size, "players": players}


def _sharded(root: Path, contents: Contents, publish: Callable[[int], None], world: World) -> Saver:
    """Every rank writes its own; one save at a time."""
    begun: list[tuple[int, Path, Future]] = []

    def ended() -> str:
        """What was begun is there, or why not; the same on every rank."""
        return "; ".join(filter(None, (_ended(*begun.pop(), world) for _ in tuple(begun))))

    def settle() -> None:
        if fault := ended():
            raise OSError(fault)

    def save(progress: Progress) -> None:
        # A failure of the last save is raised after this one has begun, or two would be lost.
        fault = ended()
        tensors, state = contents.tensors, contents.state(progress)
        work = _begun(root, progress.update, tensors, world)
        done = partial(_seal, root, progress.update, work, state, contents.texts, publish)
        begun.append((progress.update, work, shards.save(work, tensors(), world.aside, done)))
        if fault:  # of the one before; this one is on its way
            raise OSError(fault)

    return Saver(save, settle)


def _ended(update: int, work: Path, future: Future, world: World) -> str:
    """Wait for a checkpoint; if any rank failed, delete it and return the reason, else ""."""
    try:
        future.result()
        fault = ""
    except (OSError, SafetensorError) as error:
        fault = str(error) or type(error).__name__
    faults = [each for each in gathered(fault) if each]
    if faults and world.rank == 0:
        shutil.rmtree(work, ignore_errors=True)
    return f"that of update {update}: {faults[0]}" if faults else ""


def _begun(root: Path, update: int, tensors: Callable[[], checkpoint.Groups], world: World) -> Path:
    """A folder that all ranks write in. Raises OSError on all if the disk is too full."""
    # Rank 0 decides, and every rank raises: a rank that went on alone would wait for ever.
    work, fault = None, ""
    if world.rank == 0:
        try:
            need = sum(map(checkpoint.bytes_of, tensors().values()))
            checkpoint.refuse_full_disk(root, need)
            work = str(checkpoint.begin(root, update))
        except OSError as error:
            fault = str(error)
    work, fault = broadcast((work, fault))
    if fault:
        raise OSError(fault)
    return Path(work)


def _seal(
    root: Path,
    update: int,
    work: Path,
    state: dict[str, Any],
    texts: dict[str, str],
    publish: Callable[[int], None],
) -> None:
    checkpoint.seal(root, update, work, state, texts)
    publish(update)


def attempt(saver: Saver, progress: Progress, console: Console, *, settled: bool = False) -> None:
    """Save; a disk that is full now may not be at the next save, so training goes on.

    settled: wait until all of it is there.
    """
    try:
        saver.save(progress)
        if settled:
            saver.settle()
    except (OSError, SafetensorError, PathlineError) as error:
        console.print(f"update {progress.update}: a checkpoint was not saved: {error}")


def save_last(saver: Saver, progress: Progress, folder: Path, kind: runs.Kind[Any]) -> None:
    """Save at the end, or raise PathlineError with what is there and how to go on from it."""
    try:
        saver.save(progress)
        saver.settle()
    except (OSError, SafetensorError, PathlineError) as error:
        raise PathlineError(
            f"Update {progress.update} was not saved. {error}\nThe last checkpoint is "
            f"{latest_checkpoint(folder) or 'none'}. Go on from it with: "
            f"{runs.resume_line(folder, kind)}",
            getattr(error, "code", USAGE),
        ) from error


def latest_checkpoint(folder: Path) -> str:
    """The checkpoint of a run that was written last; "" if there is none."""
    latest = folder / runs.LATEST
    return str(folder / latest.read_text("utf-8").strip()) if latest.exists() else ""
