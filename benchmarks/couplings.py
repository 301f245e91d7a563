"""Independent and optimal couplings in the plane: TorchCFM's table, and where a coupling hurts.

    OMP_NUM_THREADS=1 python benchmarks/couplings.py
    OMP_NUM_THREADS=1 python benchmarks/couplings.py --conditional

NPE = |PE − W2²(source, data)| / W2²(source, data), PE the mean of ∫|v|²dt along euler's ways; W2
of drawn to test points, exact over `n`. Spread is half the range over seeds. All networks are
trained at once, as one batch of matrices (plane.py, where data and network are described).
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from plane import (
    Cell,
    Ends,
    energy,
    moons,
    normal,
    ring,
    scurve,
    trained,
    w2,
    walked,
    wide_moons,
)


class Range(NamedTuple):
    """Where reproductions of the paper's table lie."""

    npe: tuple[float, float]  # of the independent coupling
    above: float  # greatest W2 above that of two true samples


def table(options: argparse.Namespace) -> list[dict]:
    """A row for each task and coupling, with a number for every seed."""
    names = [(task, coupling) for task in TASKS for coupling in ("independent", "optimal")]
    cells = [Cell(*name, seed) for name in names for seed in options.seeds]
    networks = trained(cells, TASKS, options.updates, options.batch, 0)
    x0 = [TASKS[cell.task].source(options.n, 1 + 2 * cell.seed).x for cell in cells]
    states = walked(
        networks, torch.tensor(np.stack(x0), dtype=torch.float32), options.steps, None, 0
    )
    samples, energies = states[-1][1].double().numpy(), energy(states).tolist()
    rows: dict[tuple, dict] = {}
    for cell, x, spent in zip(cells, samples, energies, strict=True):
        least, floor = truths(cell.task, cell.seed, options.n)
        row = rows.setdefault(cell[:2], {"task": cell.task, "coupling": cell.coupling})
        measures = {
            "npe": abs(spent - least) / least,
            "w2": w2(x, TASKS[cell.task].data(options.n, 2 + 2 * cell.seed).x),
            "floor": floor,
            "energy": spent / least,
        }
        for name, value in measures.items():
            row.setdefault(name, []).append(value)
    return list(rows.values())


@cache
def truths(task: str, seed: int, n: int, rounds: int = 2) -> tuple[float, float]:
    """Mean W2² from source to data, and mean W2 of two sets of data."""
    draws = TASKS[task]
    seeds = [10_000 + 100 * seed + k for k in range(rounds)]
    squares = [w2(draws.source(n, k).x, draws.data(n, k + 50).x) ** 2 for k in seeds]
    floors = [w2(draws.data(n, k).x, draws.data(n, k + 50).x) for k in seeds]
    return statistics.mean(squares), statistics.mean(floors)


def checks(rows: list[dict]) -> dict[str, bool]:
    """Whether the results lie where reproductions of the paper's table do."""
    by = {(row["task"], row["coupling"]): row for row in rows}
    out = {}
    for name, ((low, high), most) in RANGES.items():
        apart, optimal = by[name, "independent"], by[name, "optimal"]
        out |= {
            f"{name}: NPE of optimal below 0.15": max(optimal["npe"]) < 0.15,
            f"{name}: NPE of independent in {low} … {high}": all(
                low <= value <= high for value in apart["npe"]
            ),
            f"{name}: NPE of independent above 4 times that of optimal": all(
                a > 4 * b for a, b in zip(apart["npe"], optimal["npe"], strict=True)
            ),
            f"{name}: path energy at least 0.8 of W2²": min(optimal["energy"]) >= 0.8,
        }
        for row in (apart, optimal):
            above = statistics.mean(row["w2"]) - statistics.mean(row["floor"])
            out[f"{name}: mean W2 of {row['coupling']} ≤ floor + {most}"] = above <= most
    return out


def conditional(options: argparse.Namespace) -> list[dict]:
    """Eight Gaussians to moons, told which of the two: W2 of each class, by coupling and steps."""
    cells = [Cell("moons", c, seed) for c in CONDITIONAL for seed in options.seeds]
    networks = trained(cells, {"moons": CLASSES}, options.updates, options.batch, 2)
    x0 = np.stack([CLASSES.source(options.n, 1 + 2 * cell.seed).x for cell in cells])
    rows: dict[tuple, dict] = {}
    for steps in (1, options.steps):
        for label in (0, 1):
            labels = torch.full((len(cells), options.n), label)
            x = torch.tensor(x0, dtype=torch.float32)
            samples = walked(networks, x, steps, labels, 2)[-1][1].double().numpy()
            for cell, x1 in zip(cells, samples, strict=True):
                real = CLASSES.data(4 * options.n, 2 + 2 * cell.seed)
                distance = w2(x1, real.x[real.labels == label][: options.n])
                row = {"coupling": cell.coupling, "steps": steps, 0: [], 1: []}
                rows.setdefault((cell.coupling, steps), row)[label].append(distance)
    return list(rows.values())


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± half the range."""
    return f"{statistics.mean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def show(rows: list[dict]) -> None:
    print("| task | coupling | NPE | W2 | two true samples |\n|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(mean_and_spread(row[name]) for name in ("npe", "w2", "floor"))
        print(f"| {row['task']} | {row['coupling']} | {numbers} |")
    for name, holds in checks(rows).items():
        print(f"{'yes' if holds else 'NO '} {name}")


def show_classes(rows: list[dict]) -> None:
    print("| coupling | steps | W2 of class 0 | of class 1 |\n|---|---|---|---|")
    for row in rows:
        classes = " | ".join(mean_and_spread(row[label]) for label in (0, 1))
        print(f"| {row['coupling']} | {row['steps']} | {classes} |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--conditional", action="store_true", help="moons by class instead")
    arguments.add_argument("--updates", type=int, default=5000)
    arguments.add_argument("--batch", type=int, default=128, help="which is coupled as a whole")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--steps", type=int, default=100, help="of euler")
    arguments.add_argument("--n", type=int, default=1000, help="points that are judged")
    arguments.add_argument("--json", type=Path, help="file to write the numbers to")
    options = arguments.parse_args()
    rows = conditional(options) if options.conditional else table(options)
    (show_classes if options.conditional else show)(rows)
    if options.json:
        about = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(
            json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


TASKS = {
    "N→8gaussians": Ends(normal, partial(ring, radius=5.0, std=1.0)),
    "moons→8gaussians": Ends(wide_moons, partial(ring, radius=12.0, std=1.5)),
    "N→moons": Ends(normal, moons),
    "N→scurve": Ends(normal, scurve),
}
RANGES = {
    "N→8gaussians": Range((0.12, 0.32), 0.3),
    "moons→8gaussians": Range((2.0, 3.2), 1.0),
    "N→moons": Range((0.4, 1.4), 0.3),
    "N→scurve": Range((0.5, 1.3), 0.3),
}
CLASSES = Ends(partial(ring, radius=5.0, std=0.5), partial(moons, scale=3.0))
CONDITIONAL = ("independent", "optimal", "within_class")

if __name__ == "__main__":
    main()
