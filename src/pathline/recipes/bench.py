"""`pathline bench`: how fast this machine trains and samples with a run's settings, and why."""

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

from pathline.assemble import STILL, assemble, sampler
from pathline.config.run import Run
from pathline.console import open_console, print_table
from pathline.evaluation import timing
from pathline.evaluation.timing import GIB, Meter, Shares
from pathline.files import write_whole
from pathline.generate import sample_images
from pathline.parts import Parts
from pathline.runs.dataset import Dataset, first_rows
from pathline.runs.feed import batch_of, flow_feeder, load_data
from pathline.runs.folder import Layers
from pathline.runs.methods import flow_player, read_flow_settings
from pathline.runs.sample_hook import sample_items
from pathline.training.device import Precision, pick_device, pick_precision, product_rate
from pathline.training.loop import Progress
from pathline.training.players import Lane, Player, update
from pathline.training.team import Placement

MOST = 1 << 16  # images in a batch that is tried
PATIENCE = 2.0  # seconds that trying a batch may take on a CPU
SECONDS = 4.0  # that the works of a row are timed for, together
HEADS = ("batch", "train/s", "sample/s", "data", "forward", "backward", "optim", "GiB", "share")


class Setup(NamedTuple):
    """A run put together on its device."""

    run: Run
    parts: Parts
    data: Dataset
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Row:
    """What was measured in one mode, at one batch."""

    mode: str  # eager or compiled
    batch: int
    train: float  # images a second, data included
    sample: float | None  # images a second; None: not measured
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
    """Measure training and sampling: the largest batch, speed, where the time goes, memory.

    Parameters
    ----------
    what:
        A preset, or a folder, parquet or tar file of your own pictures.
    overrides:
        Settings as key=value, such as train.batch=64 or train.precision=bf16.
    config:
        A YAML file of settings; may be repeated, the last one wins.
    device:
        auto, cpu, cuda, cuda:1, mps.
    compile:
        Measure the compiled network as well.
    json:
        A file to write the numbers to.
    debug:
        Show tracebacks.
    """
    del debug  # read by cli.py
    console = open_console()
    if json and not json.parent.is_dir():
        raise ValueError(f"--json {json} can't be written: there is no folder {json.parent}.")
    if json and json.exists():
        raise ValueError(f"--json {json} exists. Choose another file; nothing was overwritten.")
    layers = Layers(what, config, overrides, {"device": device})
    run = read_flow_settings(layers, None, console.print)
    report = measure(set_up(run, console), console, compiled=compile)
    print_table(console, _table(report))
    console.print(_notes(report))
    if json:
        write_whole(json, text.dumps(report, indent=1) + "\n")
    return 0


def set_up(run: Run, console: Console) -> Setup:
    """Data, parts and precision as a training has them, in one process."""
    device = pick_device(run.device)
    alone = replace(run.train, accumulate=1, strategy="none", compile=False)
    run, facts, dataset_for = load_data(replace(run, train=alone), None, console)
    parts = assemble(run, facts)
    parts.network.to(device)
    precision = pick_precision(run.train.precision, device)
    return Setup(run, parts, dataset_for(parts), precision, device)


def measure(setup: Setup, console: Console, *, compiled: bool) -> dict[str, Any]:
    """All numbers of a run's settings on this machine, as they go to JSON."""
    run, device, rows = setup.run, setup.device, []
    batch = batch_of(setup.data, first_rows(setup.data, 2), device)
    operations = timing.operations(setup.parts, batch)
    meter = timing.memory_meter(device)
    most, tried = _largest_batch(setup, meter)

    # the run's batch, and the largest that was run
    configured = min(run.train.batch, most)
    batches = sorted({configured, max(configured, tried)})
    plan = [("eager", batch) for batch in batches]
    if compiled:  # takes minutes on a CPU, so there for one batch
        plan += [("compiled", n) for n in batches if device.type != "cpu" or n == configured]
    for mode, batch in plan:
        console.print(f"measuring {mode}, batch {batch} …")
        try:
            rows.append(_row(setup, mode, batch, operations, meter))
        except torch.OutOfMemoryError:  # the largest batch leaves no memory for anything else
            console.print(f"{mode}, batch {batch}: out of memory, left out")
    return {
        "run": run.name,
        "device": _name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": setup.precision.name,
        "parameters": sum(p.numel() for p in setup.parts.network.parameters()),
        "flops_per_image": operations,
        "product_rate": product_rate(device, setup.precision.dtype),
        "largest_batch": most,
        "largest_batch_run": tried,
        "memory_limit": meter.limit,
        "sampling": {"steps": run.sample.steps, "solver": run.sample.solver.name},
        "rows": [asdict(row) for row in rows],
    }


def _largest_batch(setup: Setup, meter: Meter) -> tuple[int, int]:
    patience = PATIENCE if setup.device.type == "cpu" else float("inf")
    player = _player(setup, compiled=False)
    trial = partial(_run_updates, setup, player, count=2)
    return timing.largest_batch(trial, meter, most=MOST, patience=patience)


def _row(setup: Setup, mode: str, batch: int, operations: float, meter: Meter) -> Row:
    """Products, updates and sampling timed in turns; then the phases and peak of an update."""
    player = _player(setup, compiled=mode == "compiled")
    feed = _feed(setup, batch)
    # Measured in turns within one run, so that ratios hold on a busy machine.
    works: dict[str, Callable[[], Any]] = {
        "product": lambda: product_rate(setup.device, setup.precision.dtype),
        "update": lambda: update(player, feed(), 0),
    }
    # On a CPU a sampling takes minutes, so it is timed for the run's batch only.
    if batch == setup.run.train.batch or setup.device.type != "cpu":
        works["sample"] = _sampling(setup, player, batch)
    rounds = timing.in_turns(works, setup.device, SECONDS)
    durations = [seconds for seconds, _ in rounds["update"]]
    sampling = [seconds for seconds, _ in rounds.get("sample", ())]
    rates = [rate for _, rate in rounds["product"]]
    speeds = [operations * batch / seconds for seconds in durations]
    peak, _ = meter.measure(lambda: _run_updates(setup, player, batch, count=1))
    sheet = timing.data_sheet_rate(_name(setup.device), setup.precision.name)
    return Row(
        mode=mode,
        batch=batch,
        train=batch / median(durations),
        sample=batch / median(sampling) if sampling else None,
        shares=timing.shares_of_update(player, feed, setup.device),
        peak=peak,
        share=median(speed / rate for speed, rate in zip(speeds, rates, strict=True)),
        mfu=median(speeds) / sheet if sheet else None,
    )


def _player(setup: Setup, *, compiled: bool) -> Player:
    torch.compiler.reset()  # or a second batch would be compiled for all sizes
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
    placement = Placement(setup.device, setup.precision, compiled=compiled)
    return flow_player(setup.run, setup.parts, placement)


def _feed(setup: Setup, batch: int) -> Callable[[], Sequence[Lane]]:
    """The lanes of the run's first update, at this batch."""
    run = replace(setup.run, train=replace(setup.run.train, batch=batch))
    return partial(flow_feeder(run, setup.data, setup.device), Progress())


def _run_updates(setup: Setup, player: Player, batch: int, *, count: int) -> None:
    setup.parts.network.train()
    feed = _feed(setup, batch)
    for n in range(count):
        update(player, feed(), n)


def _sampling(setup: Setup, player: Player, batch: int) -> Callable[[], object]:
    run, parts = setup.run, setup.parts._replace(network=player.forward, push=STILL)
    items, _ = sample_items(run, parts, setup.data, batch)
    settings, autocast = sampler(run.sample, parts.path), setup.precision.autocast

    def work() -> None:
        sample_images(parts, items, list(range(batch)), settings, batch=batch, autocast=autocast)
        setup.parts.network.train()

    return work


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _table(report: dict[str, Any]) -> Table:
    has_sheet = any(row["mfu"] for row in report["rows"])
    title = f"{report['run']} on {report['device']}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for head in ("", *HEADS, *(["MFU"] if has_sheet else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            *(row["mode"], str(row["batch"]), f"{row['train']:.1f}"),
            "-" if row["sample"] is None else f"{row['sample']:.1f}",
            *(f"{part:.0%}" for part in row["shares"].values()),
            *(f"{row['peak'] / GIB:.2f}", f"{row['share']:.1%}"),
            *([f"{row['mfu']:.1%}"] if has_sheet else []),
        )
    return table


def _notes(report: dict[str, Any]) -> str:
    """What the columns mean, and the largest batch."""
    sampling, most, tried = (report[k] for k in ("sampling", "largest_batch", "largest_batch_run"))
    predicted = "" if tried == most else f"; predicted from smaller ones, the last {tried}"
    memory = " of the card" if report["device"] != "cpu" else f", {timing.MEMORY_SHARE:.0%} of free"
    return (
        f"{report['parameters']:,} parameters, {report['flops_per_image'] / 1e9:.3g} GFLOP for an "
        f"image (forward, backward); {report['precision']}, {report['threads']} threads\n"
        f"train/s, sample/s: images a second; sampled in {sampling['steps']} {sampling['solver']} "
        "steps with the run's guidance\n"
        f"share: of {report['product_rate'] / 1e9:.4g} GFLOP/s, a large matrix product's rate; "
        "each update against the product of its own turn\n"
        f"largest batch that fits in {report['memory_limit'] / GIB:.1f} GiB{memory}: {most}"
        f"{' or more' if most == MOST else ''}{predicted}"
    )
