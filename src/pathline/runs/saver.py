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

from pathline.runs import folder as runs
from pathline.runs.resume import state_of_run
from pathline.training import checkpoint
from pathline.training import sharded_checkpoint as shards
from pathline.training.distributed import World, gathered, told
from pathline.training.loop import Progress
from pathline.training.players import Player, state_of, tensors_of


class Saver(NamedTuple):
    """save: raises OSError if it can't; under fsdp2 it returns before the last byte is written and
    tells of a failure at the next call, which begins its own all the same. settle: waits until
    what was begun is there or failed."""

    save: Callable[[Progress], None]
    settle: Callable[[], None]


class Contents(NamedTuple):
    """What a checkpoint holds."""

    tensors: Callable[[], checkpoint.Groups]
    state: Callable[[Progress], dict[str, Any]]
    texts: dict[str, str]


def saver(
    where: Path,
    run: Any,
    texts: dict[str, str],
    player: Player,
    world: World,
    *,
    beside: Sequence[Player] = (),
    more: checkpoint.Groups = MappingProxyType({}),
) -> Saver:
    """Whole checkpoints of this player, those beside it and `more` tensors, under `where`.

    run: its train says which to keep. Both functions are called on every rank.
    """
    root, players = where / "checkpoints", (player, *beside)

    def state(progress: Progress) -> dict[str, Any]:
        return state_of_run(progress, world, {each.name: state_of(each) for each in players})

    def tensors() -> dict[str, dict[str, Tensor]]:
        own = {name: group for each in players for name, group in tensors_of(each).items()}
        return {**own, **{name: dict(group) for name, group in more.items()}}

    def publish(update: int) -> None:
        runs.publish(where, root / checkpoint.name(update), run)

    if world.strategy == "fsdp2":
        return _sharded(root, Contents(tensors, state, texts), publish, world)

    def save_whole(progress: Progress) -> None:
        if world.rank == 0:
            checkpoint.save(root, progress.update, tensors(), state(progress), texts)
            publish(progress.update)

    return Saver(save_whole, lambda: None)


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
        fault = ended()
        tensors, state = contents.tensors, contents.state(progress)
        work = _begun(root, progress.update, tensors, world)
        done = partial(_seal, root, progress.update, work, state, contents.texts, publish)
        begun.append((progress.update, work, shards.save(work, tensors(), world.aside, done)))
        if fault:  # of the one before; this one is on its way
            raise OSError(fault)

    return Saver(save, settle)


def _ended(update: int, work: Path, future: Future, world: World) -> str:
    """Waits; where any rank failed, why, and what it wrote is taken away."""
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
    work, fault = None, ""
    if world.rank == 0:
        try:
            need = sum(map(checkpoint.bytes_of, tensors().values()))
            checkpoint.refuse_full_disk(root, need)
            work = str(checkpoint.begin(root, update))
        except OSError as error:
            fault = str(error)
    work, fault = told((work, fault))
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
    except (OSError, SafetensorError) as error:
        console.print(
            f"[red]update {progress.update}: a checkpoint was not saved:[/red] {error}",
            soft_wrap=True,
        )
