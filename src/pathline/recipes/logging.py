"""`pathline logging`: a dashboard of runs, on this machine and for this machine alone."""

import io
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from pathline.console import open_console
from pathline.ranges import Port
from pathline.runs.folder import LATEST, RUNS, SETTINGS, newest_run
from pathline.training.trackers.dashboards import PROJECT, TRACKERS, installed, parts, pictures
from pathline.training.trackers.jsonl import METRICS, Tracker, lines

HOST = "127.0.0.1"
PAUSE = 2.0  # seconds between looks at runs that go on


def logging(
    run: Path | None = None,
    /,
    *,
    backend: Literal["trackio", "tensorboard"] = "trackio",
    port: Port | None = None,
    debug: bool = False,
) -> int:
    """Look at runs in a browser: losses, gradients, sample grids.

    A run that logged to this backend while training is shown as it is. Otherwise metrics.jsonl and
    samples are read, and followed while the run goes on.

    Parameters
    ----------
    run:
        A run folder or "latest"; by default all runs under runs/, side by side.
    backend:
        trackio or tensorboard.
    port:
        By default the first free one from 7860 (trackio) or 6006 (tensorboard).
    debug:
        Show tracebacks.
    """
    del debug  # read by cli.py
    board, folders = BOARDS[backend], _folders(run)
    if not installed(backend):
        raise ValueError(f"{backend} is not installed: pip install 'pathline[{backend}]'.")
    free = _free_port(port, board.port)
    console = open_console()
    with _ended_by_signals(), ExitStack() as stack:
        # Copies go to a scratch folder: a run that is looked at is not written to.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pathline-")))
        ready = len(folders) == 1 and (folders[0] / backend).is_dir()
        readers = [] if ready else [_reader(stack, each, scratch, backend) for each in folders]
        stack.enter_context(board.serve(folders[0] if ready else scratch, free))
        runs = str(folders[0]) if len(folders) == 1 else f"{len(folders)} runs under {RUNS}"
        console.print(f"{runs} in {backend}: http://{HOST}:{free}/{board.page}")
        console.print("on this machine only; Ctrl-C ends it")
        while True:
            time.sleep(PAUSE)
            for read in readers:
                read()
    console.print("ended")
    return 0


def _folders(run: Path | None) -> list[Path]:
    """The run folders to show. Raises ValueError where there is nothing to show."""
    if run is None:
        folders = sorted(path.parent for path in RUNS.glob(f"*/{METRICS}"))
        if not folders:
            raise ValueError(f"No run under {RUNS.resolve()} has a {METRICS}. Name a run folder.")
        return folders
    folder = newest_run(None) if run.name == LATEST and not run.exists() else run
    if not (folder / METRICS).is_file():
        raise ValueError(
            f"{folder} has no {METRICS}: it is no run folder, or nothing was logged yet."
        )
    return [folder]


def _reader(stack: ExitStack, folder: Path, scratch: Path, backend: str) -> Callable[[], None]:
    """A function that sends the backend what the run has written since; it was called once."""
    settings = folder / SETTINGS
    about = yaml.safe_load(settings.read_text("utf-8")) if settings.is_file() else {}
    name = folder.resolve().name
    # TensorBoard knows runs by their folders; trackio has one database for all
    home = scratch / name if backend == "tensorboard" else scratch
    tracker = TRACKERS[backend](home, name, about, 0)
    stack.callback(tracker.close)
    read = follower(folder, tracker)
    read()
    return read


def follower(folder: Path, tracker: Tracker) -> Callable[[], None]:
    """A function that sends the tracker lines and pictures that are new since the last call."""
    count, files, last_change = 0, set(), 0

    def read() -> None:
        nonlocal count, last_change
        # The file is parsed again only when it has changed.
        change = (folder / METRICS).stat().st_mtime_ns
        new = list(lines(folder / METRICS))[count:] if change != last_change else []
        for line in new:
            tracker.numbers(*parts(line))
        count, last_change = count + len(new), change
        for update, tag, file in pictures(folder):
            if file not in files:
                tracker.picture(update, tag, file)
                files.add(file)

    return read


def _free_port(port: int | None, first: int) -> int:
    """This port, or the first free one. Raises ValueError if it is taken."""
    for candidate in [port] if port else range(first, first + 100):
        with socket.socket() as trial, suppress(OSError):
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((HOST, candidate))
            return candidate
    taken = f"--port {port} is" if port else f"Ports {first} to {first + 99} are all"
    raise ValueError(f"{taken} taken or not allowed. Set another --port.")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the block, also where a shell has started us without Ctrl-C."""
    both = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.signal(number, signal.default_int_handler) for number in both}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _trackio(home: Path, port: int) -> Iterator[None]:
    os.environ["TRACKIO_DIR"] = str((home / "trackio").resolve())  # read once, at the import
    import trackio  # pyright: ignore[reportMissingImports]

    with redirect_stdout(io.StringIO()):  # it prints a link that lets others write
        server, *_ = trackio.show(
            host=HOST, server_port=port, share=False, open_browser=False, block_thread=False
        )
    try:
        yield
    finally:
        server.close()


@contextmanager
def _tensorboard(home: Path, port: int) -> Iterator[None]:
    from tensorboard import program  # pyright: ignore[reportMissingImports]

    board = program.TensorBoard()
    options = ("--logdir", str(home), "--host", HOST, "--port", str(port), "--load_fast", "false")
    board.configure(argv=("tensorboard", *options, "--reload_interval", "5"))
    board.launch()  # in a thread that ends with the process
    yield


class Board(NamedTuple):
    """A dashboard: a server for the folder that holds its data, its usual port, its first page."""

    serve: Callable[[Path, int], AbstractContextManager[None]]
    port: int
    page: str


BOARDS = {
    "trackio": Board(_trackio, 7860, f"?project={PROJECT}"),
    "tensorboard": Board(_tensorboard, 6006, ""),
}
