"""What an update of each arm costs beside plain flow matching: time and counted operations.

    OMP_NUM_THREADS=1 python benchmarks/costs.py digits --rounds 9

Arms take turns within one run, so that a busy host is busy for all; a ratio is one round's, to
flow's updates of the same round. On a CPU time is this process's own. Counted: matrix products of
forward passes, tangents and backward passes, attention's own too. Prints a table in markdown:
medians, and quartiles of the ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from arms import ARMS, settings
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pathline.assemble import assemble, put_on
from pathline.config.run import Run
from pathline.runs.feed import flow_feeder, load_data
from pathline.runs.methods import flow_player
from pathline.training.device import pick_device, pick_precision
from pathline.training.loop import Progress
from pathline.training.players import update
from pathline.training.team import Placement

WARM = 2  # updates before the clock runs: they pay for what is made once


class Arm(NamedTuple):
    """One training, to be moved on by an update at a call."""

    go: Callable[[], object]
    parameters: int
    device: torch.device


def arm_of(run: Run) -> Arm:
    """Feed, loss, gradients, optimizer, averages, as in a training of the run."""
    device = pick_device(run.device)
    run, facts, data_for = load_data(run, None, Console(quiet=True))
    parts = assemble(run, facts)
    put_on(parts, device)
    player = flow_player(run, parts, Placement(device, pick_precision(run.train.precision, device)))
    feed, numbers = flow_feeder(run, data_for(parts), device), count()

    def go() -> object:
        n = next(numbers)
        return update(player, feed(Progress(n, n * run.train.batch)), n)

    return Arm(go, sum(p.numel() for p in player.network.parameters()), device)


def operations(arm: Arm) -> int:
    """Floating-point operations of an update's matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        arm.go()  # fused attention of the CPU would not be counted
    return counter.get_total_flops()


def clock(device: torch.device) -> float:
    """Seconds: this process's on a CPU, else those of the wall when the device is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def race(arms: dict[str, Arm], rounds: int, updates: int = 2) -> dict[str, list[float]]:
    """Seconds of an update by arm, in every round; all take turns."""
    for arm in arms.values():
        for _ in range(WARM):
            arm.go()
    took: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            begun = clock(arm.device)
            for _ in range(updates):
                arm.go()
            took[name].append((clock(arm.device) - begun) / updates)
    return took


def ratios(took: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile of one to the other, round by round."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(took, base, strict=True)], n=4, method="inclusive"
    )
    return low, middle, high


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--json", type=Path, help="file to write the numbers to")
    options = arguments.parse_intermixed_args()
    names = ["flow", *(name for name in options.arms if name != "flow")]
    arms = {name: arm_of(settings(options.preset, name, options.settings)) for name in names}
    counted = {name: operations(arm) for name, arm in arms.items()}
    took = race(arms, options.rounds)
    print(f"{options.preset}, {torch.get_num_threads()} threads, {options.rounds} rounds\n")
    print("| arm | parameters | ms an update | to flow (quartiles) | GFLOP | to flow |")
    print("|---|---|---|---|---|---|")
    for name, arm in arms.items():
        low, middle, high = ratios(took[name], took["flow"])
        flops = f"{counted[name] / 1e9:.2f} | {counted[name] / counted['flow']:.2f}"
        ms = 1e3 * statistics.median(took[name])
        print(
            f"| {name} | {arm.parameters:,} | {ms:.0f} "
            f"| {middle:.2f} ({low:.2f} … {high:.2f}) | {flops} |"
        )
    if options.json:
        rows = {name: {"seconds": took[name], "flops": counted[name]} for name in arms}
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
