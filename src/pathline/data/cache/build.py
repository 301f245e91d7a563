"""Bring a cache up to its source: look, plan, encode what is new, name what is there.

Nothing that is needed is deleted before the new index is written, and whatever cost time lies in
shards that are found again; so a writing may be killed at any moment and started again.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pathline.data.buckets import Buckets
from pathline.data.cache import latents, shards, states
from pathline.data.cache.index import commit, report
from pathline.data.cache.latents import Encode, Job, Making
from pathline.data.cache.lock import locked
from pathline.data.cache.plan import Laid, Manner, Plan, Spec, Tick, caption_id, planned
from pathline.data.cache.reader import FEATURES_FOLDER, LATENTS_FOLDER, NULL, TEXT_FOLDER
from pathline.data.cache.scan import Bad
from pathline.data.sources.source import Source
from pathline.types import Cond

BROKEN = ".broken-{}.jsonl"  # what a process could not decode, until the index is written
EncodeText = Callable[[Sequence[str | None]], Cond]


class Peers(NamedTuple):
    """This process among those that write one cache together; both functions are collective."""

    rank: int = 0
    size: int = 1
    told: Callable[[Any], Any] = lambda value: value  # what rank 0 says
    agreed: Callable[[bool], bool] = lambda flag: flag  # whether any process says so


PLAIN, ALONE = Manner(), Peers()


class Made(NamedTuple):
    """What a writing came to."""

    rows: int
    encoded: int  # pictures whose latents were not there
    captions: int  # captions whose states were not there
    laid: Laid
    bad: list[Bad]
    damaged: list[str]  # shards that could not be read and were made anew
    features: int = 0  # pictures whose features were not there


def build(
    folder: Path,
    source: Source,
    buckets: Buckets,
    spec: Spec,
    encode: Encode,
    encode_text: EncodeText,
    *,
    see: Encode | None = None,
    manner: Manner = PLAIN,
    peers: Peers = ALONE,
    tick: Tick = lambda *_: None,
) -> Made:
    """Bring the cache in `folder` up to the source, encoding what is new or has changed.

    encode: uint8 [n c h w] -> raw latents on any device. encode_text: captions -> Cond; None asks
    for the null. see: uint8 [n c h w] -> features, where the spec names a vision encoder. Shards
    are shared by rank; the files are those that one process writes. Raises ValueError, before
    anything is encoded, for missing captions and for another writer; later for more unreadable
    pictures than allowed.
    """
    with locked(folder) if peers.rank == 0 else nullcontext():
        plan: Plan = _first(peers, lambda: planned(folder, source, buckets, spec, manner, tick))
        doors = encode, encode_text, see
        fault = _worked(folder, source, spec, plan, doors, manner, peers, tick)
        if peers.agreed(fault is not None):
            raise fault or ValueError("another process could not go on; see what it said")
        bad, rows = _first(peers, lambda: _ended(folder, source, spec, plan, manner, peers))
    rooms = plan.latents, plan.text, plan.features
    damaged = [file for room in rooms for file in room.damaged]
    latents, text, features = (len(room.new) for room in rooms)
    return Made(rows, latents, text, plan.laid, bad, damaged, features)


def _worked(
    folder: Path,
    source: Source,
    spec: Spec,
    plan: Plan,
    doors: tuple[Encode, EncodeText, Encode | None],
    manner: Manner,
    peers: Peers,
    tick: Tick,
) -> ValueError | OSError | None:
    """This rank's share of the shards, captions first; the fault that stopped it, if any."""
    encode, encode_text, see = doors
    making = Making(encode, spec.colours, spec.flip, spec.dtype, manner.batch)
    jobs = {job.id: job for job in plan.laid.jobs}
    mine = [_share(room.chunks, peers) for room in (plan.text, plan.latents, plan.features)]
    try:
        with torch.inference_mode():
            if spec.text and peers.rank == 0:
                _null(folder, spec, encode_text)
            states.write(
                folder / TEXT_FOLDER,
                mine[0],
                plan.said,
                plan.text.there,
                encode_text,
                dtype=spec.text_dtype,
                batch=manner.batch,
                tick=_counted(tick, "captions", plan.text, mine[0]),
            )
        counted = _counted(tick, "pictures", plan.latents, mine[1])
        there = plan.latents.there
        broken = latents.write(
            folder / LATENTS_FOLDER, mine[1], jobs, there, source, making, counted
        )
        if see:
            seeing = making._replace(encode=see, what="features")
            counted = _counted(tick, "features", plan.features, mine[2])
            place, there = folder / FEATURES_FOLDER, plan.features.there
            broken += latents.write(place, mine[2], plan.seen, there, source, seeing, counted)
        report(folder / BROKEN.format(peers.rank), broken)
    except (ValueError, OSError) as fault:
        return fault
    return None


def _ended(
    folder: Path, source: Source, spec: Spec, plan: Plan, manner: Manner, peers: Peers
) -> tuple[list[Bad], int]:
    """The index, from what all ranks wrote; what can't be read, and the number of rows."""
    files = [folder / BROKEN.format(rank) for rank in range(peers.size)]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    broken = _copies(plan.laid.jobs, [Bad(**json.loads(line)) for line in lines])
    rows = commit(folder, plan, spec, broken=broken, names=source.names, max_bad=manner.max_bad)
    for file in files:
        file.unlink(missing_ok=True)
    return [*plan.laid.bad, *broken], rows


def _copies(jobs: Sequence[Job], broken: Sequence[Bad]) -> list[Bad]:
    """Every picture of the bytes that gave no latents: just one of its copies was read."""
    torn = {one.digest: one for one in broken}
    found = [job.picture for job in jobs if job.picture.digest in torn]
    return [torn[picture.digest]._replace(key=picture.key) for picture in found]


def _null(folder: Path, spec: Spec, encode_text: EncodeText) -> None:
    """The null row, unless it is there."""
    wanted = (caption_id(spec, None),)
    whole, _ = shards.inventory(folder)
    if not any(shard.file == NULL and shard.ids == wanted for shard in whole):
        row = states.trimmed(encode_text([None]), ["the null prompt"], spec.text_dtype)
        shards.save(folder / NULL, wanted, states.packed(row))


def _share(chunks: dict[str, list[str]], peers: Peers) -> dict[str, list[str]]:
    """This rank's shards."""
    return dict(list(chunks.items())[peers.rank :: peers.size])


def _counted(tick: Tick, what: str, room: Any, mine: dict[str, list[str]]) -> Callable[[int], None]:
    """A tick for so many more rows done, of this rank's."""
    new, done = set(room.new), [0]
    total = sum(one in new for chunk in mine.values() for one in chunk)

    def more(count: int) -> None:
        done[0] += count
        tick(what, done[0], total)

    return more


def _first(peers: Peers, work: Callable[[], Any]) -> Any:
    """What `work` gives on rank 0; a fault there is raised on every rank."""
    found, fault = None, None
    if peers.rank == 0:
        try:
            found = work()
        except (ValueError, OSError) as error:
            fault = error
    found, fault = peers.told((found, fault))
    if fault is not None:
        raise fault
    return found
