"""What is printed of a training: its summary, a bar or plain lines, and skipped updates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from torch import nn

from pathline.training import optim
from pathline.training.hooks import Show
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Lane
from pathline.training.team import Team

Complain = Callable[[Progress, str, Sequence[Lane]], None]


def introduce(team: Team, say: Callable[[str], None], *, title: str, details: str) -> None:
    """Print a run: its data, its networks with their optimizers, and further details.

    title: name and number of images. details: text, precision, folder.
    """
    first, *others = team.players
    say(f"{title}, {count_parameters(first.network):,} parameters")
    say(f"optimizer {optim.describe(first.network, first.optimizer)}")
    for player in others:
        count = f"{count_parameters(player.network):,} parameters"
        say(f"{player.name}: {count}, optimizer {optim.describe(player.network, player.optimizer)}")
    for name, network in team.frozen.items():
        say(f"{name}: {count_parameters(network):,} parameters, frozen")
    say(details)


def introduce_progress(start: Progress, updates: int, say: Callable[[str], None]) -> None:
    """Print where a resumed run continues, if it does."""
    if start.update:
        say(f"resumed at update {start.update} of {updates}, after {start.images} images")
    if start.update >= updates:
        say("nothing is left to do: raise train.updates to continue")


def count_parameters(network: nn.Module) -> int:
    """Of all its weights; sharded ones count whole."""
    return sum(p.numel() for p in network.parameters())


def complaints(say: Callable[[str], None], keys: list[str], limit: int = 8) -> Complain:
    """A function that prints an update that was not taken, with the first of its images by key."""

    def complain(progress: Progress, fault: str, lanes: Sequence[Lane]) -> None:
        rows = [row for batch, _ in lanes for row in batch.keys.tolist()]
        names = ", ".join(map(keys.__getitem__, rows[:limit]))
        say(f"update {progress.update} not taken: {fault}; its images: {names} …")

    return complain


def line(progress: Progress, values: Mapping[str, float], updates: int) -> str:
    """One plain line: the progress of a run and its numbers."""
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"update {progress.update}/{updates}  images {progress.images}  {numbers}"


@contextmanager
def screen(console: Console, updates: int, start: int) -> Iterator[tuple[Hook, Show]]:
    """A hook that moves the bar and a function that shows numbers."""
    # Without a terminal: a line at each log interval.
    if not console.is_terminal:
        yield _still, lambda p, values: console.print(line(p, values, updates))
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
        # Loss and validation come at different intervals: each stays until it is measured again.
        latest: dict[str, float] = {}

        def tick(progress: Progress, _: Reports) -> None:
            bar.update(task, completed=progress.update)

        def show(_: Progress, values: Mapping[str, float]) -> None:
            latest.update(values)
            names = [name for name in ("loss", "val/loss", "images_per_second") if name in latest]
            bar.update(task, numbers="  ".join(f"{name} {latest[name]:.4g}" for name in names))

        yield tick, show


def _still(_: Progress, __: Reports) -> None:
    """Plain output has no bar to move."""
