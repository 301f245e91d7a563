"""Going on with a run: which one, from where, and whether it still is the same run."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pathline.runs import folder as runs
from pathline.runs.dataset import changed
from pathline.training import checkpoint
from pathline.training.distributed import World
from pathline.training.loop import Progress
from pathline.training.players import Player, restore
from pathline.types import Facts

Say = Callable[[str], None]


def resumed(
    resume: str | None,
    what: str | None,
    out: Path | None,
    say: Say,
    kind: runs.Kind[Any] = runs.FLOW,
) -> runs.Opened | None:
    """The run to go on with, or None for a new one."""
    if resume is None and _restarted() and out and (out / kind.settings).is_file():
        resume = str(out)
    if resume is None:
        return None
    latest = resume == runs.LATEST
    where = (out or runs.newest_run(what, kind)) if latest else Path(resume)
    opened = runs.reopen(where, lambda text: say(f"warning: {text}"), kind)
    if what and opened.run.name != what and not latest and not _restarted():
        raise ValueError(f"{where} is a run of {opened.run.name!r}; leave out {what!r}.")
    if not latest and out and out != opened.folder:
        raise ValueError("--resume goes on in the run's own folder; leave out --out.")
    newest = checkpoint.newest(opened.folder / "checkpoints", lambda _: None)
    if newest != opened.saved:
        raise ValueError(
            f"{opened.folder} has a newer checkpoint, {newest}; going on from "
            f"{opened.saved} would mix the two. Copy the run folder without the newer."
        )
    return opened


def restored(
    player: Player,
    opened: runs.Opened | None,
    world: World,
    say: Say,
    *,
    beside: Sequence[Player] = (),
) -> Progress:
    """Put the checkpoint's state into the player and those beside it; where the run stands."""
    if opened is None or opened.saved is None:
        return Progress()
    found = checkpoint.load(opened.checkpoint)
    for each in (player, *beside):
        restore(each, found.tensors, found.state["players"].get(each.name, {}))
    start, was = Progress(**found.state["progress"]), found.state.get("processes", 1)
    if was != world.size:
        say(
            f"{world.size} process(es) go on where {was} stopped: weights and optimizer are the "
            f"same, the data goes on at picture {start.images}. The noise stays the same only if "
            "processes × train.accumulate do."
        )
    return start


def same_facts(opened: runs.Opened, facts: Facts) -> None:
    """Raises ValueError if the data is not what the run began with."""
    if another := changed(opened.facts, facts):
        raise ValueError(
            f"The data is not what this run was trained on: {another}. Put it back, or start a new "
            f"run, which may begin with these weights: init={opened.folder}."
        )


def same_optimizer(opened: runs.Opened, run: Any) -> None:
    """Raises ValueError for another optimizer, which can't read the state that was kept."""
    was, now = opened.run.optimizer.name, run.optimizer.name
    if opened.saved and was != now:
        raise ValueError(
            f"The run was trained with optimizer={was} and can't go on with {now}: start a new "
            f"one, which may begin with these weights: init={opened.folder} optimizer={now}."
        )


def state_of_run(progress: Progress, world: World, players: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint's state.json holds."""
    return {"progress": progress._asdict(), "processes": world.size, "players": players}


def _restarted() -> bool:
    """Whether torchrun starts this process again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
