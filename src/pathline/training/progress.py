"""What is printed of a training: its summary, its progress, and skipped updates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from torch import nn

from pathline.console import progress
from pathline.training import optim
from pathline.training.hooks import Show
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Lane
from pathline.training.team import Team

SHOWN = ("loss", "val/loss")  # numbers beside the bar; all are in metrics.jsonl
Complain = Callable[[Progress, str, Sequence[Lane]], None]


def introduce(team: Team, say: Callable[[str], None], *, title: str, details: str) -> None:
    """Print a run: its data, its networks with their optimizers, and further details.

    title: name and number of images. details: text, precision, folder.
    """
    first, *others = team.players
    say(f"{title}; a network of {count_parameters(first.network):,} parameters")
    say(f"optimizer and the parameters it trains: {optim.describe(first.network, first.optimizer)}")
    for player in others:
        count = f"{count_parameters(player.network):,} parameters"
        say(f"{player.name}: {count}, optimizer {optim.describe(player.network, player.optimizer)}")
    for name, network in team.frozen.items():
        say(f"{name}: {count_parameters(network):,} parameters, frozen")
    say(details)


def introduce_progress(start: Progress, updates: int, say: Callable[[str], None]) -> None:
    """Print where a resumed run continues, if it does."""
    if start.update:
        say(f"resumed at update {start.update} of {updates}, after {start.images:,} images")
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


@contextmanager
def screen(console: Console, updates: int, start: int) -> Iterator[tuple[Hook, Show]]:
    """A hook that moves the bar, or prints plain lines, and a function that sets its numbers."""
    latest: dict[str, float] = {}

    def numbers() -> str:
        shown = [name for name in SHOWN if name in latest]
        return "  ".join(f"{name} {latest[name]:.4g}" for name in shown)

    def show(_: Progress, values: Mapping[str, float]) -> None:
        latest.update(values)

    with progress(console) as tick:

        def move(progress: Progress, _: Reports) -> None:
            tick("training", progress.update, updates, numbers())

        tick("training", start, updates)
        yield move, show
