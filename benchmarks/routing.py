"""Time of a training update with a route and without, in turns within one run.

An update: a route drawn, flow matching's forward and backward, AdamW. A ratio below 1 is a cheaper
update; beside it the same from counted operations of the forward pass.

    OMP_NUM_THREADS=1 python benchmarks/routing.py --rounds 5
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pathline.backbones.dit import DiT, dit
from pathline.backbones.token_routing import route_sampler
from pathline.flow.couplings import independent
from pathline.flow.paths import STRAIGHT, draw_point
from pathline.flow.times import uniform_draw
from pathline.objectives.flow import flow
from pathline.objectives.terms import TERMS, compose
from pathline.objectives.with_route import with_route
from pathline.types import Batch, Cond, Frame, Point

DIGITS = {"width": 128, "heads": 4, "patch": 1, "norm": "rms", "mlp": "swiglu", "qk_norm": True}
CASES: dict[str, tuple[Frame, int, dict[str, Any]]] = {
    "DiT-S/2, 256 tokens": (Frame(4, 32, 32, 10), 4, {"size": "S/2"}),
    "digits at patch 1, depth 6, 64 tokens": (Frame(1, 8, 8, 10), 32, {**DIGITS, "depth": 6}),
    "digits, depth 6, 16 tokens": (Frame(1, 8, 8, 10), 32, {**DIGITS, "depth": 6, "patch": 2}),
}
MODES = {"none": {}, "tread": {"route": "tread"}, "sprint": {"route": "sprint"}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Updates with a route and without.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}))
    for name, (frame, batch, settings) in CASES.items():
        updates = {mode: update(frame, batch, {**settings, **more}) for mode, more in MODES.items()}
        seconds = turns({mode: run for mode, (run, _) in updates.items()}, rounds)
        print(f"\n{name}, batch {batch}, {rounds} rounds")
        for mode, taken in seconds.items():
            ratios = [a / b for a, b in zip(taken, seconds["none"], strict=True)]
            counted = updates[mode][1] / updates["none"][1]
            print(
                f"  {mode:7} {statistics.median(taken) * 1e3:8.1f} ms"
                f"   x {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
                f"   operations x {counted:.2f}"
            )


def update(frame: Frame, batch: int, settings: dict[str, Any]) -> tuple[Callable[[], None], float]:
    """An update, and the operations of its loss's forward pass."""
    torch.manual_seed(0)
    network = dit(frame, **settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    labels = torch.randint(frame.classes, (batch,))
    null = Cond(labels=torch.tensor([frame.classes]))
    x1 = torch.randn(batch, frame.channels, frame.height, frame.width)
    rows = Batch(x1, Cond(labels=labels), null, torch.arange(batch))
    rng = torch.Generator().manual_seed(0)
    learn = loss_of(network)

    def run() -> None:
        learn(network, rows, rng)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        learn(network, rows, rng)
    return run, counter.get_total_flops()


def loss_of(network: DiT) -> Callable[..., Any]:
    def draw(x1: torch.Tensor, cond: Cond, rng: torch.Generator) -> Point:
        return draw_point(x1, cond, rng, path=STRAIGHT, draw=uniform_draw, couple=independent)

    criterion = compose({"mse": (1.0, TERMS["mse"])})
    loss = with_route(flow(STRAIGHT).loss, route_sampler(network))
    return lambda called, rows, rng: loss(called, rows, rng, draw, criterion)


def turns(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if number:
                taken[name].append(time.perf_counter() - begun)
    return taken


if __name__ == "__main__":
    main()
