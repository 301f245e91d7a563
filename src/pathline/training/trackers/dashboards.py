"""Dashboards as trackers: trackio, Weights & Biases, TensorBoard.

They write into the run folder and use no network unless their environment variables say so.
"""

import contextvars
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pathline.hints import nearest
from pathline.training.trackers.jsonl import METRICS, Tracker, lines, together

Settings = Mapping[str, Any]
PROJECT = "pathline"


@contextmanager
def open_trackers(
    names: Sequence[str],
    folder: Path,
    settings: Settings,
    warn: Callable[[str], None],
    *,
    resumed_at: int = 0,
    writes: bool = True,
) -> Iterator[Tracker]:
    """All trackers of a run as one, closed at the end. Call `refuse` before.

    settings: of the run, for the trackers that show them. writes: False on ranks after the first,
    whose tracker does nothing.
    """
    if not writes:
        yield Tracker(_ignore, _ignore, _ignore)
        return
    tracker = opened(names, folder, folder.name, settings, warn, resumed_at=resumed_at)
    try:
        yield tracker
    finally:
        tracker.close()


def _ignore(*_: Any) -> None:
    pass


def opened(
    names: Sequence[str],
    folder: Path,
    name: str,
    settings: Settings,
    warn: Callable[[str], None],
    *,
    resumed_at: int = 0,
) -> Tracker:
    """metrics.jsonl of the run folder and the named trackers, as one. Call `refuse` before."""
    rows = {each: TRACKERS[each] for each in names if each != "jsonl"}
    openers = {each: partial(row, folder, name, settings, resumed_at) for each, row in rows.items()}
    return together(folder, openers, warn, resumed_at=resumed_at)


def refuse(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker that there is none of, or whose package is not installed."""
    trackers = ("jsonl", *TRACKERS)
    for name in names:
        if name not in trackers:
            hint = nearest(name, trackers)
            names = ", ".join(trackers)
            raise ValueError(f"train.trackers={name!r} is no tracker.{hint} There are: {names}.")
        if name != "jsonl" and not installed(name):
            raise ValueError(
                f"train.trackers={name!r} is wrong because {name} is not installed. "
                f"pip install 'pathline[{name}]', or leave it out."
            )


def installed(name: str) -> bool:
    """A folder of that name in the working directory is no package: it has no origin."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def tensorboard(folder: Path, name: str, settings: Settings, resumed_at: int) -> Tracker:
    """Event files in RUN/tensorboard; on resume, what came after is hidden."""
    del name  # TensorBoard names a run by its folder
    from torch.utils.tensorboard import SummaryWriter

    home = folder / "tensorboard"
    missed = 0 if home.exists() else resumed_at
    # purge_step hides what was logged after the checkpoint that the run is resumed from.
    writer = SummaryWriter(str(home), purge_step=resumed_at + 1 if resumed_at else None)
    writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```", resumed_at)

    def numbers(update: int, images: int, values: Mapping[str, float]) -> None:
        for key, value in {**values, "images": images}.items():
            writer.add_scalar(key, value, update)
        writer.flush()

    def picture(update: int, tag: str, file: Path) -> None:
        writer.add_image(tag, _pixels(file), update, dataformats="HWC")

    return _caught_up(Tracker(numbers, picture, writer.close), folder, missed)


def trackio(folder: Path, name: str, settings: Settings, resumed_at: int) -> Tracker:
    """A local database in RUN/trackio; on resume, written again up to there from metrics.jsonl."""
    home = (folder / "trackio").resolve()
    os.environ["TRACKIO_DIR"] = str(home)  # read once, at the import
    import trackio as board  # pyright: ignore[reportMissingImports]
    from trackio.utils import TRACKIO_DIR  # pyright: ignore[reportMissingImports]

    # The folder is read at import: a second run of this process would go into the first one's.
    if home != TRACKIO_DIR:
        raise RuntimeError(f"trackio writes to {TRACKIO_DIR} already: one run folder a process")
    begin = partial(board.init, PROJECT, name, config=dict(settings), embed=False)
    # Nothing from after the checkpoint may stay: the old run is deleted and sent again.
    with _quiet(), _local():
        for old in board.Api().runs(PROJECT) if resumed_at else ():
            if old.name == name:
                old.delete()
        # in a context of its own, or it would end the run that was begun before it
        run = contextvars.copy_context().run(begin, auto_log_cpu=False, auto_log_gpu=False)

    def numbers(update: int, images: int, values: Mapping[str, float]) -> None:
        run.log({**values, "images": images}, step=update)

    def picture(update: int, tag: str, file: Path) -> None:
        run.log({tag: board.Image(str(file), caption=file.stem)}, step=update)

    def close() -> None:
        with _quiet():
            run.finish()

    return _caught_up(Tracker(numbers, picture, close), folder, resumed_at)


def wandb(folder: Path, name: str, settings: Settings, resumed_at: int) -> Tracker:
    """Weights & Biases in RUN/wandb, offline: WANDB_MODE=online or WANDB_API_KEY sends it."""
    home = folder.resolve() / "wandb"
    # Files of an earlier start are continued; a tracker that is new is sent what it missed.
    missed = 0 if home.exists() else resumed_at  # of others, wandb drops what its run has already
    home.mkdir(exist_ok=True)
    default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    mode = os.environ.get("WANDB_MODE") or default
    # Everything stays in the run folder; without a key nothing leaves the machine.
    for part in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        os.environ.setdefault(f"WANDB_{part}_DIR", str(home / part.lower()))
    if mode != "online":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb as board  # pyright: ignore[reportMissingImports]

    identity = home / "id.txt"
    if not identity.exists():
        identity.write_text(os.urandom(4).hex(), encoding="utf-8")
    # A resumed run continues under the identity that its folder keeps.
    run = board.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=name,
        dir=str(folder),
        id=identity.read_text("utf-8"),
        resume="allow" if mode == "online" else None,
        config=dict(settings),
        mode=mode,
        settings=board.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )

    def numbers(update: int, images: int, values: Mapping[str, float]) -> None:
        run.log({**values, "images": images}, step=update)

    def picture(update: int, tag: str, file: Path) -> None:
        run.log({tag: board.Image(str(file), caption=file.stem)}, step=update)

    return _caught_up(Tracker(numbers, picture, run.finish), folder, missed)


def _caught_up(tracker: Tracker, folder: Path, until: int) -> Tracker:
    """The tracker after it was sent what the run folder has up to update `until`; 0: nothing."""
    if not until:
        return tracker
    events = [
        (line["update"], partial(tracker.numbers, *parts(line))) for line in lines(folder / METRICS)
    ]
    events += [(grid[0], partial(tracker.picture, *grid)) for grid in pictures(folder)]
    for update, send in sorted(events, key=lambda event: event[0]):  # wandb refuses earlier ones
        if update <= until:
            send()
    return tracker


def parts(line: Mapping[str, Any]) -> tuple[int, int, dict[str, float]]:
    """Update, images and values of a line of metrics.jsonl."""
    values = {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
    return int(values.pop("update")), int(values.pop("images", 0)), values


def pictures(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Update, tag and file of every grid in RUN/samples, such as samples/fixed-00000400.png."""
    for file in sorted((folder / "samples").glob("*-*.png")):
        kind, _, update = file.stem.rpartition("-")
        if update.isdigit():
            yield int(update), f"samples/{kind}", file


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that a library prints over the progress bar."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _local() -> Iterator[None]:
    """trackio asks the hub for the user's name even for a local run; unless it is to log there."""
    from huggingface_hub import constants

    was = constants.HF_HUB_OFFLINE
    remote = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
    constants.HF_HUB_OFFLINE = was or not any(name in os.environ for name in remote)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


TRACKERS: dict[str, Callable[[Path, str, Settings, int], Tracker]] = {
    "trackio": trackio,
    "wandb": wandb,
    "tensorboard": tensorboard,
}
