"""Bring a cache up to its source: scan, plan, encode what is new, write the index.

Nothing that is needed is deleted before the new index is written, and whatever cost time is in
shards that are found again; so a writing may be killed at any moment and started again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pathline.data.buckets import Buckets
from pathline.data.cache.index import write_index
from pathline.data.cache.plan import (
    Layout,
    Plan,
    RowSettings,
    ShardPlan,
    Tick,
    WriteOptions,
    caption_id,
    make_plan,
)
from pathline.data.cache.reader import FEATURES, LATENTS, NULL, TEXT
from pathline.data.cache.rows import (
    Encode,
    EncodeText,
    Kind,
    PlacedPicture,
    picture_kind,
    text_kind,
    text_rows,
    write,
)
from pathline.data.cache.shards import inventory, save
from pathline.data.faults import Fault, read_faults, write_faults
from pathline.data.sources.source import Source
from pathline.files import locked

UNREADABLE_OF_PROCESS = ".unreadable-{}.jsonl"  # until the index is written


class Encoders(NamedTuple):
    """What encodes pictures and captions."""

    latents: Encode  # uint8 [n c h w] -> raw latents
    text: EncodeText  # captions -> Cond; None stands for the null condition
    features: Encode | None = None  # uint8 [n c h w] -> features; None: none are stored


class Processes(NamedTuple):
    """This process among those that write one cache together; both functions are collective."""

    rank: int = 0
    size: int = 1
    broadcast: Callable[[Any], Any] = lambda value: value  # the value of rank 0
    any_true: Callable[[bool], bool] = lambda flag: flag  # whether it is true on any rank


DEFAULTS, ALONE = WriteOptions(), Processes()


class WriteResult(NamedTuple):
    """What a writing came to."""

    rows: int
    encoded: dict[str, int]  # kind -> rows that were not in the cache before
    layout: Layout
    unreadable: list[Fault]
    damaged: list[str]  # shards that could not be read and were made again


def build(
    folder: Path,
    source: Source,
    buckets: Buckets,
    settings: RowSettings,
    encoders: Encoders,
    *,
    options: WriteOptions = DEFAULTS,
    processes: Processes = ALONE,
    tick: Tick = lambda *_: None,
) -> WriteResult:
    """Bring the cache in `folder` up to the source, encoding what is new or has changed.

    Shards are shared among the processes; the files are those that one process writes. Raises
    ValueError, before anything is encoded, for missing captions and for another writer; later for
    more unreadable pictures than allowed.
    """
    # One process plans and finishes under the lock; all of them encode their share.
    with locked(folder) if processes.rank == 0 else nullcontext():
        plan: Plan = _on_first(
            processes, lambda: make_plan(folder, source, buckets, settings, options, tick)
        )
        kinds = _kinds(plan, source, settings, encoders)
        null = partial(_write_null, folder, settings, encoders.text)
        error = _write_share(
            folder, plan, kinds, null, batch=options.batch, processes=processes, tick=tick
        )
        # Every rank learns of a failure here, or the others would wait for ever in `_finish`.
        if processes.any_true(error is not None):
            raise error or ValueError("Another process stopped with an error; see its output.")
        unreadable, rows = _on_first(
            processes, lambda: _finish(folder, source, settings, plan, options, processes.size)
        )
    damaged = [file for part in plan.shards.values() for file in part.damaged]
    # What was planned but could not be decoded is in no shard.
    torn = {fault.digest for fault in unreadable}
    planned = (*plan.layout.pictures, *plan.features.values())
    missing = {placed.id for placed in planned if placed.picture.digest in torn}
    encoded = {kind: len(part.new - missing) for kind, part in plan.shards.items()}
    return WriteResult(rows, encoded, plan.layout, unreadable, damaged)


def _write_share(
    folder: Path,
    plan: Plan,
    kinds: Mapping[str, Kind],
    write_null: Callable[[], None],
    *,
    batch: int,
    processes: Processes,
    tick: Tick,
) -> ValueError | OSError | None:
    """Write this process's shards, captions first; the error that stopped it, if any."""
    faults: list[Fault] = []
    # An error is returned, for a rank that raised would leave the others waiting.
    try:
        if processes.rank == 0:
            write_null()
        for kind, encoding in kinds.items():
            part = plan.shards[kind]
            chunks = dict(list(part.chunks.items())[processes.rank :: processes.size])
            done = _counter(tick, kind, part, chunks)
            faults += write(folder / kind, chunks, part.present, encoding, batch=batch, tick=done)
        write_faults(folder / UNREADABLE_OF_PROCESS.format(processes.rank), faults)
    except (ValueError, OSError) as error:
        return error
    return None


def _kinds(
    plan: Plan, source: Source, settings: RowSettings, encoders: Encoders
) -> dict[str, Kind]:
    """How the rows of each kind are made."""

    def of_pictures(pictures: Mapping[str, PlacedPicture], encode: Encode, kind: str) -> Kind:
        return picture_kind(
            pictures,
            source,
            encode,
            channels=settings.colours,
            flip=settings.flip,
            dtype=settings.dtype,
            noun=kind,
        )

    kinds = {TEXT: text_kind(plan.captions, encoders.text, settings.text_dtype)}
    pictures = {placed.id: placed for placed in plan.layout.pictures}
    kinds[LATENTS] = of_pictures(pictures, encoders.latents, LATENTS)
    # Features are rows of their own: another vision encoder makes these alone again.
    if encoders.features:
        kinds[FEATURES] = of_pictures(plan.features, encoders.features, FEATURES)
    return kinds


def _write_null(folder: Path, settings: RowSettings, encode_text: EncodeText) -> None:
    """Write the row of the null condition, unless it is there or no states are stored."""
    if not settings.text:
        return
    ids = (caption_id(settings, None),)
    whole, _ = inventory(folder)
    if not any(shard.file == NULL and shard.ids == ids for shard in whole):
        with torch.inference_mode():
            rows = text_rows(encode_text([None]), ["the null prompt"], settings.text_dtype)
        save(folder / NULL, ids, rows)


def _finish(
    folder: Path,
    source: Source,
    settings: RowSettings,
    plan: Plan,
    options: WriteOptions,
    processes: int,
) -> tuple[list[Fault], int]:
    """Write the index of what all processes wrote; the unreadable, and the number of rows."""
    files = [folder / UNREADABLE_OF_PROCESS.format(rank) for rank in range(processes)]
    undecodable = {fault.digest: fault for file in files for fault in read_faults(file)}
    # Only one of several copies of the same bytes was read; the others share its fault.
    copies = [p.picture for p in plan.layout.pictures if p.picture.digest in undecodable]
    torn = [undecodable[picture.digest]._replace(key=picture.key) for picture in copies]
    rows = write_index(folder, plan, settings, torn, source.names, max_bad=options.max_bad)
    for file in files:
        file.unlink(missing_ok=True)
    return [*plan.layout.unreadable, *torn], rows


def _counter(
    tick: Tick, kind: str, part: ShardPlan, chunks: Mapping[str, Sequence[str]]
) -> Callable[[int], None]:
    """A function that reports so many more of this process's rows as done."""
    new, done = part.new, 0
    total = sum(row in new for chunk in chunks.values() for row in chunk)

    def add(count: int) -> None:
        nonlocal done
        done += count
        tick(kind, done, total)

    return add


def _on_first(processes: Processes, work: Callable[[], Any]) -> Any:
    """What `work` returns on rank 0; its error is raised on every rank."""
    # The error is broadcast like a result: ranks that wait must not wait for ever.
    result, error = None, None
    if processes.rank == 0:
        try:
            result = work()
        except (ValueError, OSError) as raised:
            error = raised
    result, error = processes.broadcast((result, error))
    if error is not None:
        raise error
    return result
