"""AdamW, Muon and power-function averages at equal time: a table and the curves.

    python benchmarks/optimizers.py digits --seconds 60
    python benchmarks/optimizers.py cifar10-cpu --seconds 1800 --count 2000 \
        data.source=parquet data.source.path=…/cifar10/train.parquet

Arms take turns on the machine, mark by mark, so that a busy machine is busy for all; the schedule
follows an arm's own clock, which stops while it is judged. An arm is OPTIMIZER[:LR[:OTHER_LR]]
(options not named are the preset's). Every arm keeps the preset's EMA and power averages; other
lengths are rebuilt from snapshots. Held-out loss: mean over fixed times with fixed noise.
Distance: Fréchet on the main axes of pixels, `count` pictures drawn without guidance.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathline.assemble import assemble, optimizer, rate, sampler
from pathline.config.pick import Pick, pick
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.console import open_console
from pathline.generate import sample_images
from pathline.metrics.features import Feature, pca
from pathline.metrics.frechet import frechet, statistics
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.runs.feed import flow_feeder, held_out, load_data
from pathline.runs.methods import VALIDATION_TIMES
from pathline.runs.sample_hook import sample_items
from pathline.tables import TABLES
from pathline.training.device import pick_device, pick_precision
from pathline.training.ema import Ema, exponential, lent
from pathline.training.loop import Progress
from pathline.training.loop import train_players as loop
from pathline.training.players import Player
from pathline.training.power_ema import power_function, rebuild, snapshots, store

STORED = (0.05, 0.1)  # lengths that are kept while training
SNAPSHOTS = 5  # of each between two marks
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # cpu: a host that others use too
Weights = Mapping[str, Tensor]


@dataclass
class Arm:
    """One training under its own clock."""

    name: str
    run: Run
    parts: Parts
    player: Player
    powers: list[Ema]
    folder: Path  # of snapshots
    seconds: float  # it has in all
    clock: Callable[[], float]
    progress: Progress = field(default_factory=Progress)
    spent: float = 0.0
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def arm_of(
    spec: str, run: Run, facts: Any, seconds: float, clock: Callable, device: torch.device
) -> Arm:
    """An arm from OPTIMIZER[:LR[:OTHER_LR]]."""
    name, *rates = spec.split(":")
    learning_rates = dict(zip(("lr", "other_lr"), map(float, rates), strict=False))
    run = replace(run, optimizer=Pick(name, {**run.optimizer.options, **learning_rates}))
    parts = assemble(run, facts)
    network = parts.network.to(device)
    powers = [power_function(network, sigma_rel) for sigma_rel in STORED]
    player = Player(
        name="network",
        network=network,
        forward=torch.compile(network) if run.train.compile else network,
        optimizer=optimizer(run, network),
        loss=partial(parts.objective.loss, draw=parts.draw, criterion=parts.criterion),
        rate=lambda _: 1.0,
        precision=pick_precision(run.train.precision, device),
        clip=run.train.clip,
        emas=[exponential(network, run.train.ema[0]), *powers],  # type: ignore[list-item]
    )
    arm = Arm(spec, run, parts, player, powers, Path(tempfile.mkdtemp()), seconds, clock)
    schedule, updates = rate(run), run.train.updates
    player.rate = lambda _: schedule(min(int(arm.spent / seconds * updates), updates - 1))
    return arm


def device_of(arm: Arm) -> torch.device:
    return next(arm.player.network.parameters()).device


def go(arm: Arm, feed: Callable, until: float) -> None:
    """Train until the arm's clock says so, and store the averages."""
    begun = arm.clock() - arm.spent

    def tick(*_: Any) -> None:
        if device_of(arm).type == "cuda":
            torch.cuda.synchronize()
        arm.spent = arm.clock() - begun

    outcome = loop(
        [arm.player],
        feed,
        arm.progress,
        updates=10**9,
        batch=arm.run.train.batch,
        hooks=[tick],
        stopped=lambda: arm.spent >= until,
        complain=lambda progress, fault, _: print(f"{arm.name} {progress.update}: {fault}"),
    )
    arm.progress = outcome.progress
    for power in arm.powers:
        store(arm.folder, power, arm.progress.update)


def weights_to_judge(arm: Arm, lengths: list[float]) -> dict[str, Weights]:
    """Every set of weights an arm is judged by: its own, its averages, rebuilt ones."""
    current = {name: p.detach().clone() for name, p in arm.player.network.named_parameters()}
    sets: dict[str, Weights] = {ema.name: ema.state() for ema in arm.player.emas}
    if not lengths:
        return sets
    sets["weights"] = current
    stored, averages = snapshots(arm.folder), {ema.name for ema in arm.player.emas}
    for length in lengths:
        if f"power-{length}" not in averages:
            average = rebuild(stored, length, arm.progress.update)
            sets[f"power-{length} (rebuilt, {average.error:.1%} off)"] = average.weights
    return sets


@torch.no_grad()
def loss_of(arm: Arm, batches: list, weights: Weights) -> float:
    """Held-out loss, mean over VALIDATION_TIMES."""
    objective, network, total = arm.parts.objective, arm.player.network, []
    with lent(weights, network):
        for t in VALIDATION_TIMES:
            draw = arm.parts.draw_at(t)
            rng = torch.Generator(batches[0].x1.device).manual_seed(0)
            for batch in batches:
                more = {"draw": draw, "criterion": arm.parts.criterion, "dropout": 0.0}
                value, _ = objective.loss(network, batch, rng, **more)
                total.append(value * len(batch.x1))
    pictures = sum(len(batch.x1) for batch in batches) * len(VALIDATION_TIMES)
    return (torch.stack(total).sum() / pictures).item()


@torch.no_grad()
def distance_of(arm: Arm, data: Dataset, feature: Feature, real: Any, weights: Weights, n: int):
    """Fréchet distance of n drawn pictures to the training pictures; nan for none."""
    if not n:
        return math.nan
    draws = sampler(replace(arm.run.sample, guidance=pick("none")), arm.parts.path)
    items, _ = sample_items(arm.run, arm.parts, data, n)
    with lent(weights, arm.player.network):
        pixels = sample_images(
            arm.parts,
            items,
            list(range(n)),
            draws,
            batch=arm.run.sample.batch,
            autocast=arm.player.precision.autocast or nullcontext,
        )
    return frechet(statistics(feature.embed(pixels)), real)


def plot(arms: list[Arm], file: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for number, arm in enumerate(arms):
        for style, (name, points) in zip("-:", _plotted(arm.curves).items(), strict=False):
            axes.plot(*zip(*points, strict=True), f"C{number}{style}", label=f"{arm.name}, {name}")
    axes.set(xlabel="seconds of training", ylabel="held-out loss", title=title, yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _plotted(curves: Mapping[str, list]) -> dict[str, list]:
    """Of all averages the EMA and the better of the stored powers."""
    powers = {name: points for name, points in curves.items() if name.startswith("power")}
    best = min(powers, key=lambda name: powers[name][-1][1])
    return {name: curves[name] for name in (next(n for n in curves if n[:3] == "ema"), best)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--arms", nargs="+", default=["adamw", "muon"])
    arguments.add_argument("--seconds", type=float, default=60, help="of training, for each arm")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments.add_argument("--marks", type=int, default=8, help="points of a curve")
    arguments.add_argument("--lengths", nargs="*", type=float, default=[0.025, 0.075, 0.15])
    arguments.add_argument("--count", type=int, default=500, help="pictures drawn; 0: none")
    arguments.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    options = arguments.parse_intermixed_args()
    rows, title = compare(options)
    print(f"\n{title}\n\n| arm | updates | average | held-out loss | distance |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| {arm} | {updates} | {average} | {loss:.4f} | {distance:.3f} |".format(**row))


def keep(options: argparse.Namespace, title: str, arms: list[Arm], rows: list[dict]) -> None:
    """Write what there is so far: JSON and the curves as a picture."""
    options.out.mkdir(parents=True, exist_ok=True)
    curves = {arm.name: arm.curves for arm in arms}
    text = json.dumps({"about": title, "rows": rows, "curves": curves}, indent=1)
    (options.out / f"optimizers-{options.preset}.json").write_text(text, encoding="utf-8")
    plot(arms, options.out / f"optimizers-{options.preset}.png", title)


def compare(options: argparse.Namespace) -> tuple[list[dict], str]:
    """Train the arms in turns, then judge them: a row for each set of weights."""
    console = open_console(stderr=True)
    run = read(options.preset, (), options.settings, tables=TABLES).run
    if not run.data.holdout:
        run = replace(run, data=replace(run.data, holdout=0.02))
    device = pick_device(run.device)
    run, facts, data_for = load_data(run, None, console)
    clock = CLOCKS[options.clock]
    arms = [arm_of(spec, run, facts, options.seconds, clock, device) for spec in options.arms]
    data = data_for(arms[0].parts)
    batches = held_out(run, data, device, limit=256)
    feeds = {arm.name: flow_feeder(arm.run, data, device) for arm in arms}
    for mark in range(1, options.marks + 1):
        for arm in arms:
            for part in range(1 - SNAPSHOTS, 1):
                until = options.seconds * (mark + part / SNAPSHOTS) / options.marks
                go(arm, feeds[arm.name], until)
            judged = {k: loss_of(arm, batches, w) for k, w in weights_to_judge(arm, []).items()}
            for name, loss in judged.items():
                arm.curves.setdefault(name, []).append((round(arm.spent, 2), loss))
            console.print(f"{arm.name} {arm.spent:.0f} s {arm.progress.update} {judged}")
    real = data.pixels(data.train)
    feature = pca(real, None, device)
    real_statistics = statistics(feature.embed(real))
    floor = frechet(statistics(feature.embed(data.pixels(data.held))), real_statistics)
    title = (
        f"{run.name}, {options.seconds:.0f} s ({options.clock}) each, {torch.get_num_threads()} "
        f"threads, seed {run.seed}, {run.sample.solver.name} {run.sample.steps} steps\n"
        f"n {options.count}, {feature.name}; {len(data.held)} real held-out: {floor:.3f}"
    )
    keep(options, title, arms, [])
    rows = []
    for arm in arms:
        for name, weights in weights_to_judge(arm, options.lengths).items():
            row = {"arm": arm.name, "updates": arm.progress.update, "average": name}
            row["loss"] = loss_of(arm, batches, weights)
            row["distance"] = distance_of(
                arm, data, feature, real_statistics, weights, options.count
            )
            rows.append(row)
    keep(options, title, arms, rows)
    return rows, title


if __name__ == "__main__":
    main()
