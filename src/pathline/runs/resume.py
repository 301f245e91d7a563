"""Resuming a run: which one, from which checkpoint, and whether it still is the same run."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pathline.hints import command_line, listing
from pathline.runs import folder as runs
from pathline.runs.dataset import changed
from pathline.training import checkpoint
from pathline.training.distributed import World
from pathline.training.loop import Progress
from pathline.training.players import Player, restore
from pathline.types import Facts
from pathline.weights import require_finite

Say = Callable[[str], None]


def require_data(layers: runs.Layers, kind: runs.Kind[Any], presets: Iterable[str]) -> None:
    """Raises ValueError, with what to type, where a new training names no data of its own."""
    what = layers.preset
    command = kind.command.split()[1:]
    words = [what, *layers.overrides] if what and "=" in what else layers.overrides
    if (what is None or "=" in what) and not layers.config and not _names_data(words):
        forms = {
            "FOLDER": "a folder of your own pictures, or a .tar or .parquet file of them",
            "PRESET": f"one of {listing(presets)}",
            "--resume latest": "go on with the last training",
        }
        lines = [f"  {command_line(*command)} {form:<17} {text}" for form, text in forms.items()]
        raise ValueError("\n".join(["There is nothing to train on. Type one of:", *lines]))
    # A run in the place of pictures.
    folder = Path(what or "")
    is_checkpoint = (folder / checkpoint.MANIFEST).is_file()
    run = folder.parent.parent if is_checkpoint else folder
    if what and all((run / file).is_file() for file in (kind.settings, runs.FACTS)):
        raise ValueError(
            f"{what} is a run and no folder of pictures. To go on with it: "
            f"{runs.resume_line(run, kind)}\nTo begin another with its settings: "
            f"{command_line(*command, '--config', run / kind.settings)}"
        )
    if folder.suffix == runs.WEIGHTS and folder.is_file():
        raise ValueError(
            f"{what} has weights and no pictures. To begin with them: "
            f"{command_line(*command)} PRESET-OR-FOLDER init={what}"
        )


def _names_data(words: Sequence[str]) -> bool:
    return any(word.startswith(("data.source", "data.cache", "data=")) for word in words)


def find_run(
    resume: str | None,
    what: str | None,
    out: Path | None,
    say: Say,
    kind: runs.Kind[Any] = runs.FLOW,
) -> runs.Opened | None:
    """The run to resume, or None for a new one."""
    # torchrun repeats the first command after a failure; its run exists by then.
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
        raise ValueError("--resume writes to the resumed run's folder: leave out --out.")
    # An older checkpoint is refused: its metrics and samples would mix with the newer ones.
    newest = checkpoint.newest(opened.folder / "checkpoints", lambda _: None)
    if newest != opened.saved:
        raise ValueError(
            f"Resuming from {opened.saved} would overwrite the newer checkpoint {newest}. Copy the "
            "run folder without it, or resume from latest."
        )
    return opened


def restore_players(
    players: Sequence[Player], opened: runs.Opened | None, world: World, say: Say
) -> Progress:
    """Load the checkpoint's state into the players; returns the progress it was saved at."""
    if opened is None or opened.saved is None:
        return Progress()
    # Read whole on every rank: shards may have been written by another number of processes.
    saved = checkpoint.load(opened.checkpoint)
    for player in players:
        require_finite(saved.tensors.get(player.name, {}), opened.checkpoint)
        restore(player, saved.tensors, saved.state["players"].get(player.name, {}))
    start, processes = Progress(**saved.state["progress"]), saved.state.get("processes", 1)
    if processes != world.size:
        say(
            f"{world.size} process(es) resume a run of {processes}: weights and optimizer are the "
            f"same, the data continues at image {start.images}. The noise stays the same only if "
            "processes × train.accumulate does."
        )
    return start


def require_same_run(opened: runs.Opened, run: Any, facts: Facts) -> None:
    """Raises ValueError for other data, or an optimizer that cannot read the saved state."""
    if another := changed(opened.facts, facts):
        raise ValueError(
            f"The data is not what this run was trained on: {another}. Restore it, or start a new "
            f"run from these weights: init={opened.folder}."
        )
    was, now = opened.run.optimizer.name, run.optimizer.name
    if opened.saved and was != now:
        raise ValueError(
            f"optimizer={now} cannot resume a run trained with optimizer={was}. Start a new run "
            f"from its weights: init={opened.folder} optimizer={now}."
        )


def _restarted() -> bool:
    """Whether torchrun has started this process again after a failure."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
