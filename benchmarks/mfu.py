"""What each switch gives to the training of a DiT at 256 latent tokens, on one CUDA card.

Switch by switch, all its positions are timed; the fastest stays for the switches after it. Bare
updates and bf16 weights train otherwise: they are timed for comparison and don't stay. Every timing
takes turns with a large bf16 matrix product. Share = counted operations a second ÷ the rate of that
product; MFU = the same ÷ the card's data sheet. An update is pathline's own: point on the path,
loss, backward, finiteness, clipping, AdamW, average.

    python benchmarks/mfu.py --size B/2 --json b2.json
    python benchmarks/mfu.py --size XL/2 --only precision optimizer compile batch
    python benchmarks/mfu.py --dry                          # tiny, on the CPU: does the script run?
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from step import count, flops, perturb
from torch.nn.attention import SDPBackend, sdpa_kernel

from pathline.assemble import assemble
from pathline.config.pick import Pick, pick
from pathline.config.run import Run
from pathline.evaluation.timing import data_sheet_rate, timed
from pathline.parts import Parts
from pathline.training.device import Precision, finish, product_rate
from pathline.training.ema import exponential
from pathline.training.players import Player, lane_rng, update
from pathline.types import Batch, Cond, Facts


class Case(NamedTuple):
    facts: Facts  # of the latents, in the place of pictures
    backbone: Pick
    product: int  # side of the matrix product


class Switches(NamedTuple):
    """One way to train; the defaults are where PyTorch stands by itself."""

    precision: str = "fp32"  # fp32, tf32, bf16 (autocast), pure (bf16 weights too)
    optimizer: str = "loop"  # loop, foreach, fused
    layout: str = "contiguous"  # or channels_last
    attention: str = "default"  # or a backend: flash, cudnn, efficient, math
    compile: str = "eager"  # or a mode of torch.compile
    around: str = "all"  # bare: without clipping and average
    batch: int = 64


class Result(NamedTuple):
    switch: str
    switches: Switches
    images: float = 0.0  # a second
    share: float = 0.0
    mfu: float | None = None
    peak: float = 0.0  # GiB
    first: float = 0.0  # seconds of the first update, compilation included
    fault: str = ""


def parts_of(case: Case, device: torch.device) -> Parts:
    """The network once, for all timings: what its weights are does not change its speed."""
    run = Run(text=Pick("labels"), backbone=case.backbone, objective=pick("flow"))
    parts = assemble(run, case.facts)
    perturb(parts.network)
    parts.network.to(device)
    return parts


def player_of(parts: Parts, switches: Switches) -> Player:
    device = next(parts.network.parameters()).device
    network = parts.network.bfloat16() if switches.precision == "pure" else parts.network.float()
    torch.set_float32_matmul_precision("highest" if switches.precision == "fp32" else "high")
    half = switches.precision in ("bf16", "pure")
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if half else nullcontext
    optimizers: dict[str, dict[str, Any]] = {
        "loop": {"foreach": False},
        "foreach": {"foreach": True},
        "fused": {"fused": True},
    }
    bare = switches.around == "bare"
    return Player(
        name="network",
        network=network,
        forward=network if switches.compile == "eager" else COMPILED[switches.compile](network),
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=1e-4, **optimizers[switches.optimizer]
        ),
        loss=partial(parts.objective.loss, draw=parts.draw, criterion=parts.criterion),
        rate=lambda _: 1.0,
        precision=Precision(switches.precision, "", autocast, None),
        clip=0.0 if bare else 1.0,
        emas=[] if bare else [exponential(network, 0.9999)],
    )


def batch_of(parts: Parts, switches: Switches, device: torch.device) -> Batch:
    n, classes = switches.batch, len(parts.facts.names)
    x1 = torch.randn(n, *parts.shape(), device=device)
    if switches.layout == "channels_last":
        x1 = x1.to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (n,), device=device)
    null = Cond(*(None if v is None else v.to(device) for v in parts.text.null))
    return Batch(x1, Cond(labels=labels), null, torch.arange(n))


def attention(name: str) -> AbstractContextManager:
    return nullcontext() if name == "default" else sdpa_kernel(BACKENDS[name])


def measured(parts: Parts, side: int, switch: str, switches: Switches, rounds: int) -> Result:
    """Updates and products in turns; what a card or a build can't do is told, not raised."""
    device = next(parts.network.parameters()).device
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        return _measured(parts, side, switch, switches, rounds)
    except torch.OutOfMemoryError:
        return Result(switch, switches, fault="out of memory")
    except RuntimeError as error:  # no kernel of that kind, no compiler
        return Result(switch, switches, fault=str(error).splitlines()[0][:90])


def _measured(parts: Parts, side: int, switch: str, switches: Switches, rounds: int) -> Result:
    device = next(parts.network.parameters()).device
    player, batch = player_of(parts, switches), batch_of(parts, switches, device)
    each = flops(parts.network, switches.batch)

    def updates(n: int) -> None:
        for index in range(n):
            torch.compiler.cudagraph_mark_step_begin()
            update(player, [(batch, lane_rng(0, index, 0, device))], index)

    product = partial(product_rate, device, torch.bfloat16, size=side)
    with attention(switches.attention):
        first, _ = timed(lambda: updates(1), device)
        took, _ = timed(lambda: updates(3), device)
        repeats = max(1, round(SECONDS / (took / 3)))
        product()
        times, rates = [], []
        for _ in range(rounds):
            rates.append(product())
            times.append(timed(lambda: updates(repeats), device)[0] / repeats)
    speeds = [each / t for t in times]
    sheet = data_sheet_rate(name_of(device), "bf16")
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Result(
        switch,
        switches,
        images=switches.batch / median(times),
        share=median(s / r for s, r in zip(speeds, rates, strict=True)),
        mfu=median(speeds) / sheet if sheet else None,
        peak=peak,
        first=first,
    )


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ladder(
    start: Switches,
    stages: dict[str, tuple],
    measure: Callable[[str, Switches], Result],
    show: Callable[[Result, float], None],
) -> list[Result]:
    """Every position of every switch in turn; the fastest stays, but for those that train
    otherwise. `show` gets the gain: a ratio to the position that the switch had before."""
    results, switches = [], start
    for switch, positions in stages.items():
        current = getattr(switches, switch)
        trials: list[Result] = []
        for position in (current, *(p for p in positions if p != current)):
            trials.append(measure(switch, switches._replace(**{switch: position})))
            show(
                trials[-1],
                trials[-1].images / trials[0].images if trials[0].images else 0.0,
            )
        allowed = [r for r in trials if getattr(r.switches, switch) not in TOLD_ONLY]
        switches = max(allowed, key=lambda result: result.images).switches
        results += trials
    return results


def show(result: Result, gain: float) -> None:
    position = getattr(result.switches, result.switch)
    line = f"{result.switch:<10} {position!s:<26}"
    if result.fault:
        print(f"{line} {result.fault}", flush=True)
        return
    sheet = f"{result.mfu:>7.1%}" if result.mfu else f"{'-':>7}"
    print(
        f"{line} {result.images:>9.1f}/s {result.share:>7.1%} {sheet} {result.peak:>7.1f} GiB "
        f"{result.first:>6.1f} s  ×{gain:.3f}",
        flush=True,
    )


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--size", choices=[name for name in CASES if name != "tiny"], default="B/2")
    add("--rounds", type=int, default=5)
    add("--batch", type=int, default=64, help="before the switch 'batch' is tried")
    add("--only", nargs="+", choices=STAGES, default=list(STAGES), help="switches, in this order")
    add("--set", action="append", default=[], metavar="SWITCH=POSITION", help="where to begin")
    add("--dry", action="store_true", help="tiny, on the CPU")
    add("--json", type=Path, help="file to write the numbers to")
    return parser.parse_args(argv)


def beginning(args: argparse.Namespace) -> Switches:
    """Where the switches stand before the first is tried."""
    values: dict[str, Any] = dict(text.split("=", 1) for text in args.set)
    if wrong := values.keys() - Switches._fields:
        raise SystemExit(f"no switch {', '.join(wrong)}; there are {', '.join(Switches._fields)}")
    values["batch"] = int(values.get("batch", 4 if args.dry else args.batch))
    return Switches(**values)


def main(argv: list[str] | None = None) -> list[Result]:
    args = options(argv)
    if not args.dry and not torch.cuda.is_available():
        raise SystemExit("No CUDA card here. --dry tries the script at a tiny size on the CPU.")
    device = torch.device("cpu" if args.dry else "cuda")
    case, stages = CASES["tiny" if args.dry else args.size], DRY if args.dry else STAGES
    stages = {name: stages[name] for name in args.only}
    torch.manual_seed(0)
    parts = parts_of(case, device)
    print(
        f"{name_of(device)}, torch {torch.__version__}, {count(parts.network):,} parameters, ",
        end="",
    )
    print(f"{flops(parts.network, 1) / 1e9:.3g} GFLOP a picture")
    print(f"{'switch':<10} {'position':<26} {'images':>11} {'share':>7} {'MFU':>7} {'peak':>11}")
    measure = partial(measured, parts, case.product, rounds=args.rounds)
    begun = time.perf_counter()
    results = ladder(beginning(args), stages, measure, show)
    finish(device)
    honest = [r for r in results if not {*TOLD_ONLY} & {*map(str, r.switches)}]
    best = max(honest, key=lambda result: result.share)
    print(f"best share {best.share:.1%} with {best.switches._asdict()}")
    print(f"{time.perf_counter() - begun:.0f} s")
    if args.json:
        rows = [result._asdict() | {"switches": result.switches._asdict()} for result in results]
        about = {"device": name_of(device), "torch": torch.__version__, "size": args.size}
        args.json.write_text(
            json.dumps({"run": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return results


TOLD_ONLY = ("pure", "bare")  # another training: for comparison
SECONDS = 1.0  # of updates between two products
LATENTS = Facts(4, 32, 32, tuple(str(n) for n in range(1000)))
CASES = {
    "B/2": Case(LATENTS, pick("dit", size="B/2"), 8192),
    "XL/2": Case(LATENTS, pick("dit", size="XL/2"), 8192),
    "tiny": Case(Facts(4, 8, 8, ("0", "1")), pick("dit", depth=2, width=32, heads=2, patch=2), 256),
}
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
COMPILED = {
    "default": torch.compile,
    "reduce-overhead": partial(torch.compile, mode="reduce-overhead"),
    "max-autotune-no-cudagraphs": partial(torch.compile, mode="max-autotune-no-cudagraphs"),
    "max-autotune": partial(torch.compile, mode="max-autotune"),
    "traced": partial(torch.compile, backend="eager"),  # for --dry: no compiler is needed
}
STAGES = {
    "precision": ("fp32", "tf32", "bf16", "pure"),
    "optimizer": ("loop", "foreach", "fused"),
    "layout": ("contiguous", "channels_last"),
    "attention": ("default", *BACKENDS),
    "compile": ("eager", *(name for name in COMPILED if name != "traced")),
    "around": ("all", "bare"),
    "batch": (32, 64, 128, 256, 512, 1024),
}
DRY = {
    "precision": ("fp32", "bf16", "pure"),
    "optimizer": ("loop", "foreach", "fused"),
    "layout": ("contiguous", "channels_last"),
    "attention": ("default", "math", "flash"),
    "compile": ("eager", "traced"),
    "around": ("all", "bare"),
    "batch": (4, 8),
}

if __name__ == "__main__":
    main()
