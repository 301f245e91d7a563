"""`pathline preprocess`: pictures and captions, once, to a cache of latents and text states."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from pathline.assemble import problems_of
from pathline.config.layers import to_tree
from pathline.config.pick import Pick, bind
from pathline.config.resolve import fill, read
from pathline.config.run import PLACES, Run
from pathline.config.yaml_io import write as yaml_of
from pathline.data.buckets import Buckets, settle
from pathline.data.cache import shards
from pathline.data.cache.build import Made, Peers, build
from pathline.data.cache.plan import Manner, Spec, lay
from pathline.data.cache.reader import CACHE, LATENTS_FOLDER, STATS
from pathline.data.cache.report import listed, progress, table
from pathline.data.sources.source import Source
from pathline.data.tags import variant
from pathline.dtypes import Dtype, DtypeName, short_name
from pathline.evaluation import cache_check as checked
from pathline.runs.folder import SETTINGS
from pathline.runs.from_pictures import manner_of, source_of
from pathline.tables import TABLES
from pathline.text.table import is_frozen
from pathline.training.device import pick_device
from pathline.training.distributed import agreed, joined, number, told
from pathline.types import Codec, Cond, Example, Facts, Text, Vision

CACHES = Path("caches")
INTERRUPTED = 130
PATIENCE = timedelta(days=2)  # that one process waits for another to look at millions of files


class Tools(NamedTuple):
    """What a cache is made with."""

    run: Run
    source: Source
    buckets: Buckets
    spec: Spec
    codec: Codec
    text: Text | None  # None: no states are stored
    vision: Vision


def preprocess(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    out: Path | None = None,
    dry_run: bool = False,
    check: int = 0,
    device: str | None = None,
    batch: int = 32,
    dtype: DtypeName = "fp16",
    text_dtype: DtypeName = "fp16",
) -> int:
    """Encode pictures and captions once, into a cache that training reads.

    Pictures keep their shape where data.buckets.max_ratio is above 1. Run it again at any time:
    just what is new or has changed is encoded. Stopped, it goes on where it was.

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
        Encode nothing; show the buckets, what is cut off, enlarged and refused.
    check:
        Decode so many pictures of the cache, beside their originals, in check.png, with their PSNR.
    device:
        auto, cpu, cuda, cuda:1, mps.
    batch:
        Pictures or captions encoded at once.
    dtype:
        Of the stored latents and features: fp16, bf16, fp32.
    text_dtype:
        Of the stored text states: fp16, bf16, fp32.
    """
    if batch < 1 or check < 0:
        raise ValueError(f"--batch {batch} and --check {check}: wanted at least 1 and 0.")
    run = read(what, config, overrides, {"device": device}, check=problems_of).run
    console = Console(quiet=number() > 0)
    tools = tools_of(run, short_name(dtype), short_name(text_dtype))
    folder = out or Path(run.data.cache or CACHES / run.name)
    _refuse_inside(folder, tools.run.data.source.options.get("path"))
    if dry_run:
        return _shown(folder, tools, console)
    try:
        made = _made(folder, tools, batch, console)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. What was encoded is kept in {folder}; the same command goes on.",
            soft_wrap=True,
        )
        return INTERRUPTED
    if check and number() == 0:
        where, channels = pick_device(tools.run.device), tools.run.data.channels
        jobs = made.laid.jobs
        checked.check(folder, tools.source, jobs, tools.codec, channels, check, where, console)
    return 0


def tools_of(run: Run, dtype: Dtype = "fp16", text_dtype: Dtype = "fp16") -> Tools:
    """Source, buckets, codec and text encoder of a run, no weights loaded. Raises ValueError."""
    run, source = source_of(run)
    run = _settled(run, source)
    source, data = _tagged(run, source), run.data
    facts = Facts(data.channels, data.size, data.size, source.names)
    codec: Codec = bind(TABLES["codec"], run.codec, PLACES["codec"])(facts)
    text: Text | None = None
    if is_frozen(run.text.name):  # the others leave nothing to store
        text = bind(TABLES["text"], run.text, PLACES["text"])(facts)
    vision: Vision = bind(TABLES["vision"], run.vision, PLACES["vision"])()
    spec = Spec(
        codec.id,
        text.id if text else "",
        codec.factor,
        codec.channels,
        data.channels,
        data.flip,
        dtype,
        text_dtype,
        vision.id,
        vision.width,
        vision.tokens,
    )
    buckets = settle(data.size, codec.factor * patch_of(run), **asdict(data.buckets))
    return Tools(run, source, buckets, spec, codec, text, vision)


def _settled(run: Run, source: Source) -> Run:
    """text=auto is classes or nothing; captions need an encoder that somebody names."""
    if run.text.name != "auto":
        return run
    if source.captioned:
        raise ValueError(
            "The pictures have captions, and a cache wants an encoder for them: name one, such as "
            "text=encoder text.path=sentence-transformers/all-MiniLM-L6-v2 (`pathline config list "
            "text`), or leave them out with text=none."
        )
    return replace(run, text=Pick("labels" if source.names else "none", {}))


def _tagged(run: Run, source: Source) -> Source:
    """The source with each tag list in as many arrangements as data.tags asks for."""
    variants, tags = manner_of(run)
    if not variants:
        return source

    def arranged(read: Callable[[int], Example], row: int) -> Example:
        example = read(row)
        said = [text for text in example.captions or (example.caption or "",) if text.strip()]
        found = [_ways(text, example.key, variants, run.seed, **tags) for text in said]
        every = tuple(way for ways in found for way in ways)
        of = tuple(number for number, ways in enumerate(found) for _ in ways)
        return example._replace(caption=every[0] if every else None, captions=every, of=of)

    about = partial(arranged, source.about) if source.about else None
    return source._replace(read=partial(arranged, source.read), about=about)


def _ways(caption: str, key: str, count: int, seed: int, **tags: Any) -> dict[str, None]:
    """Each arrangement once, in order; prose has one."""
    return dict.fromkeys(variant(caption, key, n, seed, **tags) for n in range(count))


def patch_of(run: Run) -> int:
    """Latents that a patch of the run's backbone has on a side."""
    options = fill(run, TABLES).backbone.options
    of_size = str(options.get("size", "")).rpartition("/")[2]
    return int(options.get("patch") or (of_size if of_size.isdigit() else 1))


def _shown(folder: Path, tools: Tools, console: Console) -> int:
    with progress(console) as tick:
        laid = lay(folder, tools.source, tools.buckets, tools.spec, tick)
    there, _ = shards.inventory(folder / LATENTS_FOLDER)
    known = {one for shard in there for one in shard.ids}
    new = {job.id for job in laid.jobs} - known
    for part in (*table(laid, tools.buckets, tools.run.train.batch), *listed(laid)):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    console.print(f"{len(new)} pictures to encode into {folder}; nothing was written")
    return 0 if laid.jobs else 2


def _made(folder: Path, tools: Tools, batch: int, console: Console) -> Made:
    """Write the cache, alone or with the other processes that torchrun has started."""
    data, spec = tools.run.data, tools.spec
    strategy = "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    with joined(strategy, pick_device(tools.run.device), patience=PATIENCE) as (world, device):
        first = world.rank == 0
        if first:
            _tell_changes(folder, spec, console)
        with progress(console) as tick:
            made = build(
                folder,
                tools.source,
                tools.buckets,
                spec,
                partial(_encode, tools.codec, device),
                partial(_encode_text, tools.text, device),
                see=partial(_encode, tools.vision, device) if tools.vision.width else None,
                manner=Manner(batch, 0, data.missing_captions, data.max_bad),
                peers=Peers(world.rank, world.size, told, agreed),
                tick=tick,
            )
        if first:
            shards.replace(folder / SETTINGS, yaml_of(to_tree(tools.run)))
            _tell(folder, made, tools, console)
    return made


def _encode(door: Codec | Vision, device: torch.device, pixels: Tensor) -> Tensor:
    if door.to:
        door.to(device)
    return door.encode(pixels.to(device, non_blocking=True))


def _encode_text(text: Text | None, device: torch.device, captions: Sequence[str | None]) -> Cond:
    assert text is not None
    if text.to:
        text.to(device)
    return text.encode(captions)


def _tell_changes(folder: Path, spec: Spec, console: Console) -> None:
    """Say so where the folder holds what another codec or encoder made."""
    file = folder / CACHE
    try:
        old: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        old = {}
    rooms = {"codec": "latents", "text": "states", "vision": "features", "dtype": "latents"}
    for what, rows in rooms.items():
        now = getattr(spec, what)
        if old.get(what) and old[what] != now:
            end = f"and is {now!r}: all {rows} are made anew" if now else f"and is none: no {rows}"
            console.print(
                f"{what} was {old[what]!r} {end}",
                soft_wrap=True,
                highlight=False,
            )


def _tell(folder: Path, made: Made, tools: Tools, console: Console) -> None:
    say = partial(console.print, soft_wrap=True, highlight=False)
    states = f", {made.captions} captions encoded" if tools.text else ""
    states += f", {made.features} of them seen by the vision encoder" if tools.vision.width else ""
    say(f"{folder}: {made.rows} pictures, {made.encoded} of them encoded now{states}")
    for file in made.damaged:
        say(f"damaged and made anew: {file}")
    for line in listed(made.laid._replace(bad=made.bad)):
        say(line)
    stats = json.loads((folder / STATS).read_text())
    pooled = stats["pooled"]
    say(
        f"raw latents: mean {pooled['mean']:.4f}, std {pooled['std']:.4f}; std by channel "
        f"{min(stats['std']):.4f} … {max(stats['std']):.4f}"
    )
    say(f"next: pathline train … data.cache={folder}")


def _refuse_inside(out: Path, path: Any) -> None:
    """What is written among the pictures would be looked at as one the next time."""
    if path is not None and out.resolve().is_relative_to(Path(path).resolve()):
        raise ValueError(f"the cache {out} would lie among the pictures; choose --out elsewhere")
