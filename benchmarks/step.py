"""Speed of one training update (forward, backward, AdamW) beside the machine's matrix products.

Everything is timed in turns within one run, round by round, so that a noisy machine is noisy for
all. Share = counted floating-point operations per second ÷ the rate of a large square product.

    python benchmarks/step.py --size S/2 --threads 2 --rounds 9          # beside diffusers' DiT
    python benchmarks/step.py --size digits --threads 2 --compile
"""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.dit import DiT, dit
from pathline.types import Cond, Frame


class Case(NamedTuple):
    frame: Frame
    batch: int
    settings: dict


class Timed(NamedTuple):
    """Something to time, and how many floating-point operations one call is."""

    run: Callable[[], object]
    flops: float


def linears(network: DiT, batch: int) -> list[tuple[int, int, int]]:
    """(rows, in, out) of every matrix product of a forward pass but attention's own."""
    tokens = batch * network.rows * network.columns
    per_token = ("patch", "attention", "mlp", "final.linear")
    return [
        (
            tokens if any(part in name for part in per_token) else batch,
            m.in_features,
            m.out_features,
        )
        for name, m in network.named_modules()
        if isinstance(m, nn.Linear)
    ]


def flops(network: Any, batch: int) -> float:
    """Of a DiT's update: 3 × (Σ 2·rows·in·out of linear layers + depth · 4·B·L²·D for attention).

    Three: forward, gradient of the input, gradient of the weights. Nothing else is counted.
    """
    length, shape = network.rows * network.columns, network.shape
    products = sum(2.0 * m * k * n for m, k, n in linears(network, batch))
    return 3 * (products + shape.depth * 4.0 * batch * length**2 * shape.width)


def update(forward: Callable[[], Tensor], network: nn.Module, target: Tensor) -> Callable[[], None]:
    """One training update against a fixed target."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def run() -> None:
        F.mse_loss(forward(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def ours(case: Case, switches: dict, *, compiled: bool) -> tuple[Timed, DiT]:
    network = dit(case.frame, **{**case.settings, **switches})
    perturb(network)
    x, t, labels = inputs(case)
    called = torch.compile(network) if compiled else network
    run = update(lambda: called(x, t, Cond(labels=labels)).value, network, torch.randn_like(x))
    return Timed(run, flops(network, case.batch)), network


def diffusers_dit(case: Case) -> tuple[nn.Module, Timed]:
    """diffusers' DiT of the same depth, width, heads, patch and classes; same input and target."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    same = dit(case.frame, **case.settings)
    shape, frame = same.shape, case.frame
    network = DiTTransformer2DModel(
        num_attention_heads=shape.heads,
        attention_head_dim=shape.width // shape.heads,
        in_channels=frame.channels,
        num_layers=shape.depth,
        sample_size=frame.height,
        patch_size=shape.patch,
        num_embeds_ada_norm=frame.classes,
    ).train()
    x, t, labels = inputs(case)
    run = update(lambda: network(x, t * 1000, labels).sample, network, torch.randn_like(x))
    return network, Timed(run, flops(same, case.batch))


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    frame = case.frame
    x = torch.randn(case.batch, frame.channels, frame.height, frame.width)
    return x, torch.rand(case.batch), torch.randint(frame.classes, (case.batch,))


def perturb(network: nn.Module) -> None:
    """Zero-initialised weights would leave most gradients zero, and zeros can be fast or slow."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.02)


def square(side: int = 2048) -> Timed:
    """The machine's matrix-product rate."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    out = torch.empty(side, side)
    return Timed(lambda: torch.mm(a, b, out=out), 2.0 * side**3)


def own_products(network: DiT, batch: int) -> Timed:
    """Only the linear layers' products of an update, at the network's shapes: three for each."""
    shapes = [shape for shape in linears(network, batch) if shape[0] > batch]
    sets = [(torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)) for m, k, n in set(shapes)]
    sets = [s for s in sets for _ in range(shapes.count((len(s[0]), *reversed(s[1].shape))))]

    def run() -> None:
        for x, w, g in sets:
            F.linear(x, w)
            g.mm(w)
            g.t().mm(x)

    return Timed(run, 3 * sum(2.0 * m * k * n for m, k, n in shapes))


def race(
    timed: dict[str, Timed], rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds per call in every round; all take turns, each for about `seconds`."""
    repeats = {}
    for name, (run, _) in timed.items():
        for _ in range(3 if seconds else 1):
            run()
        start = clock()
        run()
        repeats[name] = max(1, round(seconds / (clock() - start)))
    durations = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (run, _) in timed.items():
            start = clock()
            for _ in range(repeats[name]):
                run()
            durations[name].append((clock() - start) / repeats[name])
    return durations


def keep_memory() -> None:
    """Let glibc keep freed memory: else every update faults its activations in anew."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    libc.mallopt(-4, 0)  # M_MMAP_MAX


def summary(
    timed: dict[str, Timed], durations: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """Median and best of the rounds; the share is of the same round's square product."""
    rows = {}
    for name, seconds in durations.items():
        rates = [timed[name].flops / s / 1e9 for s in seconds]
        peaks = [timed["square product"].flops / s / 1e9 for s in durations["square product"]]
        rows[name] = {
            "ms": 1e3 * statistics.median(seconds),
            "ms_best": 1e3 * min(seconds),
            "gflops": statistics.median(rates),
            "share": statistics.median([a / b for a, b in zip(rates, peaks, strict=True)]),
            "share_best": max(rates) / max(peaks),
        }
        if "diffusers" in durations:
            pairs = zip(durations["diffusers"], seconds, strict=True)
            rows[name]["speedup"] = statistics.median([theirs / s for theirs, s in pairs])
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"{'':<18}" + "".join(f"{c:>12}" for c in columns))
    for name, row in rows.items():
        print(f"{name:<18}" + "".join(f"{row[c]:>12.3f}" for c in columns))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--size", choices=CASES, default="S/2")
    add("--rounds", type=int, default=9)
    add("--seconds", type=float, default=1.0, help="for each contestant, in each round")
    add("--threads", type=int, default=2)
    add("--compile", action="store_true", help="also time torch.compile")
    add("--keep-memory", action="store_true", help="for all: let malloc keep what is freed")
    add("--set", action="append", default=[], help="also time a dit setting, as norm=rms")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    add("--json", type=Path, help="file to write the numbers to")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error(f"--clock cpu counts one thread's time, but --threads is {args.threads}.")
    return args


def contestants(args: argparse.Namespace) -> dict[str, Timed]:
    """Everything that is to be timed, by name; says the sizes."""
    case, switches = CASES[args.size], yaml.safe_load("\n".join(args.set).replace("=", ": ")) or {}
    timed, network = ours(case, {}, compiled=False)
    entries = {
        "square product": square(),
        "own products": own_products(network, case.batch),
        "pathline": timed,
    }
    print(f"pathline: {count(network):,} parameters, {timed.flops / 1e9:.2f} GFLOP an update")
    if switches:
        entries["with settings"] = ours(case, switches, compiled=False)[0]
    if args.size in BESIDE_DIFFUSERS:
        theirs, entries["diffusers"] = diffusers_dit(case)
        print(f"diffusers: {count(theirs):,} parameters (every block has its own embeddings)")
    if args.compile:
        entries["compiled"] = ours(case, switches, compiled=True)[0]
        start = time.perf_counter()
        entries["compiled"].run()
        print(f"compiling took {time.perf_counter() - start:.0f} s")
    return entries


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.keep_memory:
        keep_memory()
    print(f"{args.threads} threads, torch {torch.__version__}, {args.clock} clock")
    entries = contestants(args)
    rows = summary(entries, race(entries, args.rounds, args.seconds, CLOCKS[args.clock]))
    show(rows)
    if args.json:
        about = {key: str(value) for key, value in vars(args).items()}
        about |= {"processor": platform.processor(), "torch": torch.__version__}
        args.json.write_text(
            json.dumps({"run": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
BESIDE_DIFFUSERS = ("S/2",)
CASES = {
    "S/2": Case(Frame(4, 16, 16, classes=10), 64, {"size": "S/2"}),
    "digits": Case(
        Frame(1, 8, 8, classes=10), 128, {"depth": 3, "width": 128, "heads": 4, "patch": 2}
    ),
}

if __name__ == "__main__":
    main()
