"""What stands beside the network's own work: the loader, the sampling loop, the front door.

python benchmarks/rates.py PRESET [--rounds 7] [key=value …]

Prints one JSON line: pictures a second of training updates and of the loader alone (everything that
turns a cursor into a batch), their ratio; seconds of N-step sampling over N bare forward passes of
the same batch; seconds of `pathline --help`. Rounds are timed in turns; medians are printed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from rich.console import Console

from pathline.assemble import Parts, assemble, problems_of, sampler
from pathline.config.read import read
from pathline.config.run import Run
from pathline.generate import states
from pathline.recipes.examples import Data
from pathline.recipes.prepare import feeder, found
from pathline.recipes.samples import items_of
from pathline.recipes.train import player_of
from pathline.training.loop import Progress
from pathline.training.parallel import Precision
from pathline.training.players import update

CPU = torch.device("cpu")
STEPS, DRAWN, FEEDS = 20, 64, 50


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def asked() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--rounds", type=int, default=7)
    return arguments.parse_args()


def works_of(run: Run, parts: Parts, data: Data) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    player = player_of(run, parts, Precision("fp32", "", nullcontext, None), CPU)
    feed = feeder(run, data, CPU)
    items = items_of(run, parts, data, DRAWN)
    draws = sampler(read(None, (), [f"sample.steps={STEPS}"]).run.sample, parts.path)
    cond = parts.text.encode(items)
    x, t = torch.randn(DRAWN, *parts.shape()), torch.full((DRAWN,), 0.5)

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(STEPS):
            parts.network(x, t, cond)

    def feeds() -> None:
        for n in range(FEEDS):
            feed(Progress(n, n * run.train.batch))

    return {
        "update": lambda: update(player, feed(Progress()), 0),
        "feed": feeds,
        "sampling": lambda: list(states(parts, items, list(range(DRAWN)), draws)),
        "forwards": forwards,
        "help": lambda: subprocess.run(
            [sys.executable, "-m", "pathline", "--help"], stdout=subprocess.DEVNULL, check=True
        ),
    }


def timed(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, in turns, after one that is not counted."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def told(run: Run, times: dict[str, list[float]]) -> dict[str, object]:
    took = {name: statistics.median(rounds) for name, rounds in times.items()}
    ratios = [a / b for a, b in zip(times["sampling"], times["forwards"], strict=True)]
    batch = run.train.batch
    return {
        "preset": run.name,
        "threads": torch.get_num_threads(),
        "train_images_per_second": round(batch / took["update"], 1),
        "loader_images_per_second": round(batch * FEEDS / took["feed"]),
        "loader_over_train": round(took["update"] * FEEDS / took["feed"], 1),
        "sampling_over_forwards": round(statistics.median(ratios), 3),
        "help_seconds": round(took["help"], 3),
    }


def main() -> None:
    given = asked()
    run = read(given.preset, (), given.settings, check=problems_of).run
    run, facts, data_for = found(run, None, Console(stderr=True))
    parts = assemble(run, facts)
    works = works_of(run, parts, data_for(parts))
    print(json.dumps(told(run, timed(works, given.rounds))))


if __name__ == "__main__":
    main()
