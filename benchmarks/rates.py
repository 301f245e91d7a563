"""What stands beside the network's own work: the loader, the sampling loop, the front door.

python benchmarks/rates.py PRESET [--rounds 7] [--loader] [key=value …]

Prints one JSON line: pictures a second of training updates and of the loader alone (everything that
turns a cursor into a batch; of a cache with data.cache=FOLDER latents and text states, in the order
of its buckets), their ratio; seconds of N-step sampling over N bare forward passes of the same
batch; seconds of `pathline --help`. Rounds are timed in turns; medians are printed. --loader: only
training and loader, which wants neither the codec nor the text encoder of a cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import count

import torch

from pathline.assemble import assemble, sampler
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.console import open_console
from pathline.generate import sample_steps
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.runs.feed import flow_feeder, load_data
from pathline.runs.from_cache import adopt_cache
from pathline.runs.methods import flow_player
from pathline.runs.sample_hook import sample_items
from pathline.tables import TABLES
from pathline.training.device import Precision
from pathline.training.loop import Progress
from pathline.training.players import Lane, update
from pathline.training.team import Placement

CPU = torch.device("cpu")
STEPS, SAMPLES, FEEDS = 20, 64, 50


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def parse_arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--loader", action="store_true")
    return arguments.parse_intermixed_args()


def loading(run: Run, parts: Parts, data: Dataset) -> dict[str, Callable[[], object]]:
    """Training and its loader, each going on through the data as it is called."""
    player = flow_player(run, parts, Placement(CPU, Precision("fp32", "", nullcontext, None)))
    feed = flow_feeder(run, data, CPU)
    trained, fed = count(), count()

    def batch(n: int) -> Sequence[Lane]:
        return feed(Progress(n, n * run.train.batch))

    def feeds() -> None:
        for _ in range(FEEDS):
            batch(next(fed))

    return {"update": lambda: update(player, batch(n := next(trained)), n), "feed": feeds}


def drawing(run: Run, parts: Parts, data: Dataset) -> dict[str, Callable[[], object]]:
    """A sampling run, and the forward passes that it can't do without."""
    items, _ = sample_items(run, parts, data, SAMPLES)
    draws = sampler(read(None, (), [f"sample.steps={STEPS}"]).run.sample, parts.path)
    cond = parts.text.encode(items)
    x, t = torch.randn(SAMPLES, *parts.shape()), torch.full((SAMPLES,), 0.5)

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(STEPS):
            parts.network(x, t, cond)

    return {
        "sampling": lambda: list(sample_steps(parts, items, list(range(SAMPLES)), draws)),
        "forwards": forwards,
    }


def door() -> object:
    command = [sys.executable, "-m", "pathline", "--help"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def timed(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, in turns, after one that is not counted."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def summary(run: Run, pictures: int, times: dict[str, list[float]]) -> dict[str, object]:
    took = {name: statistics.median(rounds) for name, rounds in times.items()}
    batch = run.train.batch
    report = {
        "preset": run.name,
        "pictures": pictures,
        "text": run.text.name,
        "threads": torch.get_num_threads(),
        "train_images_per_second": round(batch / took["update"], 1),
        "loader_images_per_second": round(batch * FEEDS / took["feed"]),
        "loader_over_train": round(took["update"] * FEEDS / took["feed"], 1),
    }
    if "sampling" in times:
        ratios = [a / b for a, b in zip(times["sampling"], times["forwards"], strict=True)]
        report["sampling_over_forwards"] = round(statistics.median(ratios), 3)
        report["help_seconds"] = round(took["help"], 3)
    return report


def main() -> None:
    options = parse_arguments()
    settings = read(options.preset, (), options.settings, tables=TABLES)
    run, facts, data_for = load_data(adopt_cache(settings), None, open_console(stderr=True))
    parts = assemble(run, facts)
    data = data_for(parts)
    works = loading(run, parts, data)
    if not options.loader:
        works |= {**drawing(run, parts, data), "help": door}
    print(json.dumps(summary(run, len(data.keys), timed(works, options.rounds))))


if __name__ == "__main__":
    main()
