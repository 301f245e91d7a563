"""What a person reads while a command runs: one console, plain lines, one progress bar."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol, TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

INTERVAL = 10.0  # seconds between plain lines where there is no terminal
FIRST = 2.0  # seconds until the first of them
WIDEST = 10_000  # columns that no table needs
PLAIN = 160  # columns of a table where there is no terminal
Item = TypeVar("Item")
Say = Callable[[str], None]


class Tick(Protocol):
    """Reports that `done` of `total` items of a task are finished; note: text after the bar."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


def open_console(
    *,
    quiet: bool = False,
    stderr: bool = False,
    width: int | None = None,
    file: IO[str] | None = None,
) -> Console:
    """A console that prints text as it is: no wrapping, no markup in file names, no colours.

    Every command prints on one of these, so that no name, caption or label is read as markup.
    width: of tables; None: the terminal's, and wide where there is none.
    """
    plain: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False, "emoji": False}
    # A notebook would set every line apart, as HTML of its own.
    console = Console(
        quiet=quiet, stderr=stderr, width=width, file=file, force_jupyter=False, **plain
    )
    if width is None and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN
    return console


def say_on(console: Console) -> Say:
    """A function that prints one line, never wrapped and never read as markup."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

    return say


def duration(seconds: float) -> str:
    """A length of time in words: 40 s, 12 min, 1 h 10 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def print_table(console: Console, table: Table) -> None:
    """Print a table, wider than the terminal where else a word or number of it would be broken."""
    widest = console.options.update(width=WIDEST)
    size, width = Measurement.get(console, widest, table), console.width
    if size.maximum > width:
        # rich narrows the widest columns first, below their longest word: these get widths.
        cells = [[str(cell) for cell in (c.header, *c.cells)] for c in table.columns]
        texts = [max(map(len, column)) for column in cells]
        for column, column_cells in zip(table.columns, cells, strict=True):
            column.width = max(len(word) for cell in column_cells for word in cell.split() or [""])
        longest = table.columns[texts.index(max(texts))]
        longest.width = (longest.width or 0) + max(0, width - size.minimum)
        console.width = max(width, size.minimum)
    try:
        console.print(table)
    finally:
        console.width = width


@contextmanager
def progress(console: Console) -> Iterator[Tick]:
    """A bar for each task on a terminal; elsewhere a plain line soon and then every 10 seconds."""
    if not console.is_terminal:
        yield _plain_lines(say_on(console))
        return
    # On a terminal: one bar for each task, gone when all are done.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {}

        def tick(task: str, done: int, total: int, note: str = "") -> None:
            if task not in tasks:
                tasks[task] = bar.add_task(task, total=total, completed=done, note=note)
            bar.update(tasks[task], completed=done, total=total, note=note)

        yield tick


def tracked(items: Sequence[Item], task: str, console: Console) -> Iterator[Item]:
    """The items one after another, with a progress bar."""
    return _tracked(items, len(items), task, console)


def _tracked(items: Iterable[Item], total: int, task: str, console: Console) -> Iterator[Item]:
    with progress(console) as tick:
        for done, item in enumerate(items):
            tick(task, done, total)
            yield item
        tick(task, total, total)


class _Speed(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


def _plain_lines(say: Say) -> Tick:
    """Done, total, speed and time left of each task, at most one line in INTERVAL seconds."""
    starts: dict[str, tuple[float, int]] = {}
    last_lines: dict[str, float] = {}

    def tick(task: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        # Speed from the first call on: what an earlier run has done does not count.
        start, first = starts.setdefault(task, (now, done))
        if now - last_lines.setdefault(task, now - INTERVAL + FIRST) < INTERVAL:
            return
        last_lines[task] = now
        speed = (done - first) / max(now - start, 1e-9)
        left = f"about {duration((total - done) / speed)} left" if speed else "time left unknown"
        end = f"  {note}" if note else ""
        say(f"{task} {done}/{total}  {speed:.1f}/s  {left}{end}")

    return tick
