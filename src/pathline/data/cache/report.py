"""What a person sees of a preprocessing: a table of the buckets, lists, a bar."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from pathline.data.buckets import Buckets
from pathline.data.cache.latents import Job, size_of
from pathline.data.cache.plan import Laid, Tick
from pathline.data.cache.scan import Bad

NAMED = 10  # pictures of a list that are named
EVERY = 10.0  # seconds between plain lines


def table(laid: Laid, buckets: Buckets, batch: int) -> list[Table | str]:
    """The buckets with what lies in them, and what is worth a word."""
    heads = ("size", "images", "batches", "cropped", "at most", "upscaled", "refused")
    found = Table("bucket", *heads)
    by_size = {size: [j for j in laid.jobs if j.place.size == size] for size in buckets.sizes}
    refused = Counter(one.size for one in laid.refused)
    for index, (size, jobs) in enumerate(by_size.items()):
        if jobs or refused[size]:
            found.add_row(str(index), size_of(size), *_row(jobs, batch, refused[size]))
    found.add_section()
    found.add_row("all", "", *_row(laid.jobs, batch, len(laid.refused)))
    used = sum(map(bool, by_size.values()))
    notes = [f"{used} of {len(by_size)} buckets hold pictures; {len(laid.bad)} can't be read"]
    few = {size_of(size): len(jobs) for size, jobs in by_size.items() if 0 < len(jobs) < batch}
    return [found, *notes, *([_few(few, batch)] if few else [])]


def _row(jobs: Sequence[Job], batch: int, refused: int) -> list[str]:
    """images, batches, share cropped in the mean and at most, upscaled, refused."""
    shares = [job.place.cropped for job in jobs] or [0.0]
    enlarged = sum(job.place.scale > 1 for job in jobs)
    middle = f"{sum(shares) / len(shares):.1%}"
    batches = f"{len(jobs) / batch:.1f}"
    return [str(len(jobs)), batches, middle, f"{max(shares):.1%}", str(enlarged), str(refused)]


def _few(few: dict[str, int], batch: int) -> str:
    """A word on buckets of which an update shows each picture more than once."""
    least = min(few, key=lambda name: few[name])
    return (
        f"{len(few)} buckets hold fewer pictures than train.batch={batch}: an update repeats them, "
        f"up to {batch / few[least]:.1f} times ({least}: {few[least]}), and comes that much more "
        "rarely. A larger data.buckets.multiple makes fewer buckets, less is cut with more of them."
    )


def listed(laid: Laid) -> list[str]:
    """Every kind of picture that is not as it was, the first of them by name."""
    kinds = {
        "unreadable": laid.bad,
        "refused, too small": laid.refused,
        "enlarged by wish": laid.enlarged,
    }
    lines = []
    for kind, found in kinds.items():
        lines += [f"{kind}: {_named(one)}" for one in found[:NAMED]]
        if len(found) > NAMED:
            lines.append(f"{kind}: … and {len(found) - NAMED} more")
    return lines


def _named(one: Bad) -> str:
    return one.reason if one.key in one.reason else f"{one.key}: {one.reason}"


class Speed(ProgressColumn):
    """Things done in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


@contextmanager
def progress(console: Console) -> Iterator[Tick]:
    """A bar for each thing that is counted; on no terminal a line now and then."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        tasks = {}

        def tick(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield tick


def _lines(console: Console) -> Tick:
    """A line for each thing every ten seconds: so many of so many, how fast, time left."""
    begun: dict[str, float] = {}
    told: dict[str, float] = {}

    def tick(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        first = begun.setdefault(what, now)
        if now - told.setdefault(what, now) < EVERY:
            return
        told[what] = now
        speed = done / max(now - first, 1e-9)
        left = int((total - done) / speed)
        console.print(
            f"{what} {done}/{total}  {speed:.1f}/s  {left // 60}:{left % 60:02d} left",
            highlight=False,
        )

    return tick
