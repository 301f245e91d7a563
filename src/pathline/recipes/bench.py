"""`pathline bench`: how fast this machine trains and draws with a run's settings, and why."""

import json as text
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pathline.assemble import STILL, Parts, assemble, sampler
from pathline.backbones.token_routing import drawer
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.evaluation.timing import (
    GIB,
    ROOM,
    Meter,
    Shares,
    meter,
    peak_rate,
    search,
    split,
    turns,
)
from pathline.generate import sample_images
from pathline.objectives.with_route import routed
from pathline.runs.dataset import Dataset, first_rows
from pathline.runs.feed import batch_of, flow_feeder, load_data
from pathline.runs.from_cache import adopted
from pathline.runs.methods import flow_player
from pathline.runs.sample_hook import sample_items
from pathline.tables import TABLES
from pathline.training.device import Precision, pick_device, pick_precision, product_rate
from pathline.training.loop import Feed, Progress
from pathline.training.players import Player, update
from pathline.training.team import Placement
from pathline.types import DTYPES

MOST = 1 << 16  # pictures in a batch that is tried
PATIENCE = 2.0  # seconds that trying a batch may take on a CPU
SPAN = 4.0  # seconds that the works of a row are timed for, together


class Setup(NamedTuple):
    """A run put together on its device."""

    run: Run
    parts: Parts
    data: Dataset
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Row:
    """What was measured in one way of running, at one batch."""

    way: str  # eager or compiled
    batch: int
    train: float  # pictures a second, data included
    draw: float | None  # pictures a second, or not measured
    shares: Shares  # of the time of an update
    peak: int  # bytes
    share: float  # of the rate of a large matrix product, measured in turns with the updates
    mfu: float | None  # of the card's data sheet


def bench(
    what: str,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    device: str | None = None,
    compile: bool = False,
    json: Path | None = None,
    debug: bool = False,
) -> int:
    """Measure training and drawing: the largest batch, speed, where the time goes, memory.

    Parameters
    ----------
    what:
        A preset, or a folder, parquet or tar file of your own pictures.
    overrides:
        Settings as key=value, such as train.batch=64 or train.precision=bf16.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    device:
        auto, cpu, cuda, cuda:1, mps.
    compile:
        Measure compiled as well.
    json:
        A file to write the numbers to.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    console = Console(highlight=False, soft_wrap=True)
    if json and not json.parent.is_dir():
        raise ValueError(f"--json {json}: there is no folder {json.parent}.")
    run = adopted(read(what, config, overrides, {"device": device}, tables=TABLES))
    report = measured(prepared(run, console), console, compiled=compile)
    console.print(_table(report))
    for line in _told(report):
        console.print(line)
    if json:
        json.write_text(text.dumps(report, indent=1) + "\n")
    return 0


def prepared(run: Run, console: Console) -> Setup:
    """Data, parts and precision as a training has them, in one process."""
    device = pick_device(run.device)
    alone = replace(run.train, accumulate=1, strategy="none", compile=False)
    run, facts, data = load_data(replace(run, train=alone), None, console)
    parts = assemble(run, facts)
    parts.network.to(device)
    return Setup(run, parts, data(parts), pick_precision(run.train.precision, device), device)


def measured(setup: Setup, console: Console, *, compiled: bool) -> dict[str, Any]:
    """All numbers of a run's settings on this machine, as they go to JSON."""
    run, device, rows = setup.run, setup.device, []
    each = flops(setup)
    gauge, patience = meter(device), PATIENCE if device.type == "cpu" else float("inf")
    trial = partial(_updates, setup, _player(setup, compiled=False), count=2)
    most, ran = search(trial, gauge, most=MOST, patience=patience)
    del trial  # and its optimizer's memory
    own = min(run.train.batch, most)
    batches = sorted({own, max(own, ran)})
    plan = [("eager", batch) for batch in batches]
    if compiled:  # takes minutes on a CPU, so there for one batch
        plan += [("compiled", n) for n in batches if device.type != "cpu" or n == own]
    for way, batch in plan:
        console.print(f"measuring {way}, batch {batch} …")
        try:
            rows.append(_row(setup, way, batch, each, gauge))
        except torch.OutOfMemoryError:  # the largest batch leaves no room for anything else
            console.print(f"{way}, batch {batch}: out of memory, left out")
    return {
        "run": run.name,
        "device": _name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": setup.precision.name,
        "parameters": sum(p.numel() for p in setup.parts.network.parameters()),
        "flops_per_picture": each,
        "product_rate": _rate(setup),
        "largest_batch": most,
        "largest_batch_run": ran,
        "memory_limit": gauge.limit,
        "sampling": {"steps": run.sample.steps, "solver": run.sample.solver.name},
        "rows": [asdict(row) for row in rows],
    }


def flops(setup: Setup) -> float:
    """Operations of forward and backward a picture, counted; attention as two full products.

    What a backbone recomputes to save memory is counted as well.
    """
    parts, rng = setup.parts, torch.Generator(setup.device).manual_seed(0)
    batch = batch_of(setup.data, first_rows(setup.data, 2), setup.device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        learn = routed(parts.objective.loss, drawer(parts.network))
        loss, _ = learn(parts.network, batch, rng, parts.draw, parts.criterion)
        loss.backward()
    parts.network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch.x1)


def _row(setup: Setup, way: str, batch: int, each: float, gauge: Meter) -> Row:
    """Products, updates and drawing timed in turns; then the split and the peak of an update."""
    player = _player(setup, compiled=way == "compiled")
    feed = _feed(setup, batch)
    works = {
        "product": lambda: _rate(setup),
        "update": lambda: update(player, feed(Progress()), 0),
    }
    if batch == setup.run.train.batch or setup.device.type != "cpu":
        works["draw"] = _drawing(setup, player, batch)
    found = turns(works, setup.device, SPAN)
    seconds = [took for took, _ in found["update"]]
    rates = [rate for _, rate in found["product"]]
    share = median(each * batch / t / rate for t, rate in zip(seconds, rates, strict=True))
    drawn = [took for took, _ in found.get("draw", ())]
    peak, _ = gauge.around(lambda: _updates(setup, player, batch, count=1))
    sheet = peak_rate(_name(setup.device), setup.precision.name)
    return Row(
        way=way,
        batch=batch,
        train=batch / median(seconds),
        draw=batch / median(drawn) if drawn else None,
        shares=split(player, lambda: feed(Progress()), setup.device),
        peak=peak,
        share=share,
        mfu=each * batch / median(seconds) / sheet if sheet else None,
    )


def _player(setup: Setup, *, compiled: bool) -> Player:
    torch.compiler.reset()  # or a second batch would be compiled for all sizes
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
    run = replace(setup.run, train=replace(setup.run.train, compile=compiled))
    placement = Placement(setup.device, setup.precision, compiled=compiled)
    return flow_player(run, setup.parts, placement)


def _feed(setup: Setup, batch: int) -> Feed:
    run = replace(setup.run, train=replace(setup.run.train, batch=batch))
    return flow_feeder(run, setup.data, setup.device)


def _updates(setup: Setup, player: Player, batch: int, *, count: int) -> None:
    setup.parts.network.train()
    feed = _feed(setup, batch)
    for n in range(count):
        update(player, feed(Progress(n, n * batch)), n)


def _drawing(setup: Setup, player: Player, batch: int) -> Callable[[], object]:
    run, parts = setup.run, setup.parts._replace(network=player.forward, push=STILL)
    draws = sampler(run.sample, parts.path)
    items, _ = sample_items(run, parts, setup.data, batch)
    seeds = list(range(batch))
    draw = partial(sample_images, batch=batch, autocast=setup.precision.autocast)

    def work() -> None:
        draw(parts, items, seeds, draws)
        setup.parts.network.train()

    return work


def _rate(setup: Setup) -> float:
    size = 1024 if setup.device.type == "cpu" else 8192
    return product_rate(setup.device, DTYPES[setup.precision.name], size=size)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _table(report: dict[str, Any]) -> Table:
    heads = ("batch", "train/s", "draw/s", "data", "forward", "backward", "optim", "GiB", "share")
    sheet = any(row["mfu"] for row in report["rows"])
    title = f"{report['run']} on {report['device']}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for head in ("", *heads, *(["MFU"] if sheet else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            *(row["way"], str(row["batch"]), f"{row['train']:.1f}"),
            "-" if row["draw"] is None else f"{row['draw']:.1f}",
            *(f"{part:.0%}" for part in row["shares"].values()),
            *(f"{row['peak'] / GIB:.2f}", f"{row['share']:.1%}"),
            *([f"{row['mfu']:.1%}"] if sheet else []),
        )
    return table


def _told(report: dict[str, Any]) -> list[str]:
    """What the table can't say."""
    sampling, most = report["sampling"], report["largest_batch"]
    ran, limit = report["largest_batch_run"], report["memory_limit"] / GIB
    how = "" if ran == most else f"; judged by the memory of smaller ones, the last {ran}"
    size = f"{report['parameters']:,} parameters, {report['flops_per_picture'] / 1e9:.3g} GFLOP"
    room = " of the card" if report["device"] != "cpu" else f", {ROOM:.0%} of what is free"
    return [
        f"{size} a picture (forward, backward); {report['precision']}, {report['threads']} threads",
        f"train/s, draw/s: pictures a second; drawn in {sampling['steps']} {sampling['solver']} "
        "steps with the run's guidance",
        f"share: of {report['product_rate'] / 1e9:.4g} GFLOP/s, a large matrix product's rate; "
        "each update beside its own turn's product",
        f"largest batch that fits in {limit:.1f} GiB{room}: {most}"
        f"{' or more' if most == MOST else ''}{how}",
    ]
