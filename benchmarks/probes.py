"""What looking inside a network costs: share of an update at the default interval.

    OMP_NUM_THREADS=1 python benchmarks/probes.py digits
    OMP_NUM_THREADS=1 python benchmarks/probes.py cifar10-cpu data.source=parquet \
        data.source.path=…/cifar10/train.parquet

Three trainings take turns, update by update, so that a busy host is busy for all: without probes,
with them between two probed updates (only the loss by time is counted), and with every update
probed. Share = what an update between adds + what a probed one adds / interval. Probed values go
nowhere: what a tracker costs is not counted. CPU time of this process.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

import torch

from pathline.assemble import assemble
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.console import open_console
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.runs.feed import flow_feeder, load_data
from pathline.runs.methods import flow_player
from pathline.training.device import pick_precision
from pathline.training.loop import Progress
from pathline.training.players import update
from pathline.training.probes import probes, timed
from pathline.training.team import Placement

CPU = torch.device("cpu")
NEVER = 10**9  # an interval that no update reaches: what stands between probed ones


def going(run: Run, parts: Parts, data: Dataset, interval: int) -> Callable[[], object]:
    """A training that moves by an update at a call, as `pathline train` does it."""
    criterion, by_time = timed(parts.criterion)
    watched = parts._replace(criterion=criterion) if interval else parts
    precision = pick_precision(run.train.precision, CPU)
    player = flow_player(run, watched, Placement(CPU, precision))
    feed, look = probes(player, flow_feeder(run, data, CPU), nowhere, interval, more=by_time)
    numbers = count()

    def go() -> None:
        n = next(numbers)
        position = Progress(n, n * run.train.batch)
        reports = {player.name: update(player, feed(position), n)}
        look(position._replace(update=n + 1), reports)

    return go


def nowhere(*_: object) -> None:
    """A tracker that keeps nothing."""


def turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every call, after two that are not counted; the order turns too."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-2, rounds):
        names = list(works)
        for name in names[number % 3 :] + names[: number % 3]:
            begun = time.process_time()
            works[name]()
            if number >= 0:
                took[name].append(time.process_time() - begun)
    return took


def share(took: Mapping[str, Sequence[float]], interval: int) -> dict[str, float]:
    """Medians over rounds, as shares of the same round's plain update; error: of `between`'s."""
    between = [a / b - 1 for a, b in zip(took["between"], took["plain"], strict=True)]
    probed = [a / b - 1 for a, b in zip(took["probed"], took["between"], strict=True)]
    each, extra = statistics.median(between), statistics.median(probed)
    low, _, high = statistics.quantiles(between, n=4)
    error = 0.93 * (high - low) / math.sqrt(len(between))  # of a normal sample's median
    return {"between": each, "error": error, "probed": extra, "all": each + extra / interval}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--rounds", type=int, default=30)
    options = arguments.parse_intermixed_args()
    run = read(options.preset, (), options.settings).run
    interval = run.train.probe_every
    run, facts, data_for = load_data(run, None, open_console(stderr=True))
    data = data_for(assemble(run, facts))
    works = {
        name: going(run, assemble(run, facts), data, n)
        for name, n in {"plain": 0, "between": NEVER, "probed": 1}.items()
    }
    took = turns(works, options.rounds)
    found_share = share(took, interval)
    ms = 1e3 * statistics.median(took["plain"])
    print("| preset | ms an update | between adds | a probed one adds | every | share of time |")
    print("|---|---|---|---|---|---|")
    each, error, extra, whole = (
        100 * found_share[k] for k in ("between", "error", "probed", "all")
    )
    shown = f"{each:.2f} ± {error:.2f} % | {extra:.1f} % | {interval} | {whole:.2f} %"
    print(f"| {run.name} | {ms:.0f} | {shown} |")


if __name__ == "__main__":
    main()
