"""What a person sees of a training: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

from pathline.training.hooks import Show
from pathline.training.loop import Hook, Progress, Reports


def line(progress: Progress, values: Mapping[str, float], updates: int) -> str:
    """One plain line: where the run stands and its numbers."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"update {progress.update}/{updates}  images {progress.images}  {numbers}"


@contextmanager
def screen(console: Console, updates: int, start: int) -> Iterator[tuple[Hook, Show]]:
    """A hook that moves the bar and a function that shows numbers."""
    if not console.is_terminal:
        yield _still, lambda p, values: console.print(line(p, values, updates), soft_wrap=True)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=updates, completed=start, numbers="")
        seen: dict[str, float] = {}

        def tick(progress: Progress, _: Reports) -> None:
            bar.update(task, completed=progress.update)

        def show(_: Progress, values: Mapping[str, float]) -> None:
            seen.update(values)
            wanted = [name for name in ("loss", "val/loss", "images_per_second") if name in seen]
            bar.update(task, numbers="  ".join(f"{name} {seen[name]:.4g}" for name in wanted))

        yield tick, show


def _still(_: Progress, __: Reports) -> None:
    """Plain output has no bar to move."""
