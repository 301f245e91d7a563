"""`pathline preprocess`: encode pictures and captions once, into a cache that trainings read."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from pathline.config.resolve import read
from pathline.console import open_console, progress, say_on
from pathline.data.cache.build import Processes, WriteResult, build
from pathline.data.cache.plan import RowSettings, WriteOptions, lay_out
from pathline.data.cache.reader import FEATURES, HEAD, LATENTS, STATS, TEXT
from pathline.data.cache.report import bucket_table, list_faults
from pathline.data.cache.shards import inventory
from pathline.dtypes import DtypeName, short_name
from pathline.evaluation.cache_check import check_cache
from pathline.ranges import NotNegative, Positive
from pathline.runs.cache_inputs import CacheInputs, cache_inputs, encoders, write_settings
from pathline.runs.from_pictures import refuse_inside
from pathline.tables import TABLES
from pathline.training.device import pick_device
from pathline.training.distributed import (
    agreed,
    broadcast,
    joined,
    launched_rank,
    strategy_of_launch,
)

CACHES = Path("caches")
INTERRUPTED = 130
TIMEOUT = timedelta(days=2)  # one process waits for another to scan millions of files


def preprocess(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    out: Path | None = None,
    dry_run: bool = False,
    check: NotNegative = 0,
    device: str | None = None,
    batch: Positive = 32,
    dtype: DtypeName = "fp16",
    text_dtype: DtypeName = "fp16",
) -> int:
    """Encode pictures and captions once, into a cache that training reads.

    Pictures keep their shape where data.buckets.max_ratio is above 1. Run it again at any time:
    only what is new or has changed is encoded. Interrupted, it resumes where it was.

    Parameters
    ----------
    what:
        A preset (`pathline config list`) or a folder, parquet or tar file of your own pictures.
    overrides:
        Settings as key=value, such as data.size=512, codec=taesd or data.buckets.max_ratio=2.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    out:
        The cache's folder; by default the run's data.cache, else caches/NAME.
    dry_run:
        Encode nothing; show the buckets, what is cropped, enlarged and refused.
    check:
        Decode so many pictures of the cache, next to their originals, in check.png, with PSNR.
    device:
        auto, cpu, cuda, cuda:1, mps.
    batch:
        Pictures or captions encoded at once.
    dtype:
        Of the stored latents and features: fp16, bf16, fp32.
    text_dtype:
        Of the stored text states: fp16, bf16, fp32.
    """
    run = read(what, config, overrides, {"device": device}, tables=TABLES).run
    console = open_console(quiet=launched_rank() > 0)
    inputs = cache_inputs(run, short_name(dtype), short_name(text_dtype))
    folder = out or Path(run.data.cache or CACHES / run.name)
    # A cache among the pictures would be read as data by the next command.
    refuse_inside(folder, inputs.run)
    for note in inputs.source.notes:
        console.print(note)
    if dry_run:
        return _show_plan(folder, inputs, console)
    try:
        result = write_cache(folder, inputs, batch, console)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. What was encoded is in {folder}; the same command resumes it.",
        )
        return INTERRUPTED
    if check and launched_rank() == 0:
        check_cache(folder, inputs, result.layout.pictures, check, console)
    return 0


def _show_plan(folder: Path, inputs: CacheInputs, console: Console) -> int:
    with progress(console) as tick:
        layout = lay_out(folder, inputs.source, inputs.buckets, inputs.settings, tick)
    shards, _ = inventory(folder / LATENTS)
    new = {placed.id for placed in layout.pictures} - {row for shard in shards for row in shard.ids}
    table = bucket_table(layout, inputs.buckets, inputs.run.train.batch)
    for part in (*table, *list_faults(layout)):
        console.print(part)
    console.print(f"{len(new)} pictures to encode into {folder}; nothing was written")
    return 0 if layout.pictures else 2


def write_cache(folder: Path, inputs: CacheInputs, batch: int, console: Console) -> WriteResult:
    """Write the cache, alone or with the other processes that torchrun has started."""
    data, settings = inputs.run.data, inputs.settings
    # Several processes share the work; the first one writes index and report.
    with joined(strategy_of_launch(), pick_device(inputs.run.device), patience=TIMEOUT) as (
        world,
        device,
    ):
        if world.rank == 0:
            _report_changes(folder, settings, console)
        with progress(console) as tick:
            result = build(
                folder,
                inputs.source,
                inputs.buckets,
                settings,
                encoders(inputs, device),
                options=WriteOptions(batch, 0, data.missing_captions, data.max_bad),
                processes=Processes(world.rank, world.size, broadcast, agreed),
                tick=tick,
            )
        if world.rank == 0:
            write_settings(folder, inputs.run)
            _report(folder, result, inputs, console)
    return result


def _report_changes(folder: Path, settings: RowSettings, console: Console) -> None:
    """Print which encoders are others than those that made the cache in the folder."""
    try:
        earlier = json.loads((folder / HEAD).read_text("utf-8"))
    except (OSError, ValueError):
        return
    kinds = {"codec": LATENTS, "text": "text states", "vision": FEATURES, "dtype": LATENTS}
    for setting, rows in kinds.items():
        before, now = earlier.get(setting), getattr(settings, setting)
        if before and before != now:
            end = f"and is {now!r}: all {rows} are made again" if now else f"and is none: no {rows}"
            console.print(f"{setting} was {before!r} {end}")


def _report(folder: Path, result: WriteResult, inputs: CacheInputs, console: Console) -> None:
    say = say_on(console)
    new = result.encoded
    more = f", {new[TEXT]} captions encoded" if inputs.text else ""
    more += f", features of {new[FEATURES]} pictures encoded" if inputs.vision.width else ""
    say(f"{folder}: {result.rows} pictures, {new[LATENTS]} of them encoded now{more}")
    for file in result.damaged:
        say(f"damaged and made again: {file}")
    for line in list_faults(result.layout._replace(unreadable=result.unreadable)):
        say(line)
    stats = json.loads((folder / STATS).read_text("utf-8"))
    say(
        f"raw latents: mean {stats['pooled']['mean']:.4f}, std {stats['pooled']['std']:.4f}; std "
        f"by channel {min(stats['std']):.4f} … {max(stats['std']):.4f}"
    )
    say(f"next: pathline train … data.cache={folder}")
