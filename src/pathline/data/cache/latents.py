"""Pictures to shards of latents: decoded ahead by threads, encoded in batches of one bucket."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pathline.data.buckets import Place, Size, cut
from pathline.data.cache import shards
from pathline.data.cache.scan import Bad, Picture, unchanged
from pathline.data.sources.source import Source
from pathline.data.transforms import recolour
from pathline.types import DTYPES

LATENTS, MIRRORED, SUMS = "latents", "mirrored", "sums"  # tensors of a shard
Encode = Callable[[Tensor], Tensor]  # uint8 [n c h w] -> raw latents, on any device


class Job(NamedTuple):
    """One picture to encode."""

    id: str
    picture: Picture
    place: Place


class Making(NamedTuple):
    """How latents are made."""

    encode: Encode
    channels: int  # of the pictures
    flip: bool  # whether each picture's mirror image is encoded too
    dtype: str  # of what is stored
    batch: int
    what: str = "latents"  # what is made, for messages: features are made in the same way


def write(
    folder: Path,
    chunks: Mapping[str, Sequence[str]],
    jobs: Mapping[str, Job],
    there: Sequence[shards.Shard],
    source: Source,
    making: Making,
    tick: Callable[[int], None] = lambda _: None,
) -> list[Bad]:
    """Write shards; returns the pictures that can't be read or decoded.

    chunks: file -> identities of its rows. Those that lie in shards `there` are copied, the others
    encoded. A whole file of that name is left. One that lacks such pictures is named by the others.
    """
    places = {one: (shard.file, row) for shard in there for row, one in enumerate(shard.ids)}
    written = {shard.file for shard in there}
    files = [(file, chunk) for file, chunk in chunks.items() if file not in written]
    todo = [[jobs[one] for one in chunk if one not in places] for _, chunk in files]
    broken: list[Bad] = []
    with closing(_decoded([job for part in todo for job in part], source, making)) as ahead:
        for (file, chunk), part in zip(files, todo, strict=True):
            rows = _copied(folder, {one: places[one] for one in chunk if one in places})
            for some, faults in _encoded(islice(ahead, len(part)), making):
                rows |= some
                broken += faults
                tick(len(some) + len(faults))
            ids = [one for one in chunk if one in rows]
            if ids:
                name = shards.renamed(file, ids)
                shards.save(folder / name, ids, _stacked([rows[one] for one in ids]))
    return broken


def size_of(size: Size) -> str:
    """A bucket's name: width x height."""
    return f"{size[1]}x{size[0]}"


def store(
    raw: Float[Tensor, "n c h w"], dtype: str, keys: Sequence[str], what: str = "latents"
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 2 c"]]:
    """Raw latents as they are stored, and each row's sums and sums of squares (float64) of that.

    Raises ValueError where a number is not finite.
    """
    stored = raw.detach().to("cpu", DTYPES[dtype])
    fine = torch.isfinite(stored).flatten(1).all(1)
    if not fine.all():
        named = ", ".join(key for key, ok in zip(keys, fine.tolist(), strict=True) if not ok)
        most = raw.abs().max().item()
        raise ValueError(
            f"the {what} of {named} are not finite as {dtype} (greatest {most:.3g}). Store them "
            "in another dtype (--dtype bf16 or fp32), or see whether their encoder gives NaN."
        )
    exact = stored.double()
    return stored, torch.stack([exact.sum((2, 3)), exact.square().sum((2, 3))], 1)


def picture_of(source: Source, job: Job, channels: int) -> UInt8[Tensor, "c h w"]:
    """The picture cut for its bucket.

    Raises ValueError for what the file holds, and OSError where it can't be read or has changed.
    """
    image = source.read(job.picture.row).image
    if not unchanged(source, job.picture):
        raise OSError(f"{job.picture.key} was changed while it was read; start again")
    if tuple(image.shape[1:]) != (job.picture.height, job.picture.width):
        raise ValueError(
            f"{job.picture.key} has {image.shape[2]}x{image.shape[1]} pixels, but its header says "
            f"{job.picture.width}x{job.picture.height}"
        )
    return cut(recolour(image, channels), job.place)


def _decoded(
    jobs: Sequence[Job], source: Source, making: Making
) -> Generator[tuple[Job, Tensor | Bad], None, None]:
    """Each picture in order, decoded by threads while earlier ones are encoded."""

    def one(job: Job) -> Tensor | Bad:
        try:
            return picture_of(source, job, making.channels)
        except (ValueError, OSError) as fault:
            passing = isinstance(fault, OSError) or _changing(source, job.picture)
            return Bad(job.picture.key, str(fault), job.picture.digest, passing=passing)

    workers = min(16, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(workers), deque[tuple[Job, Future[Tensor | Bad]]]()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(one, job)))
            if len(waiting) > 2 * making.batch + workers:
                first, image = waiting.popleft()
                yield first, image.result()
        while waiting:
            first, image = waiting.popleft()
            yield first, image.result()
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for them


def _changing(source: Source, picture: Picture) -> bool:
    """Whether somebody else is at the file, so that its fault may be gone the next time."""
    try:
        return not unchanged(source, picture)
    except OSError:
        return True


def _encoded(
    pictures: Iterator[tuple[Job, Tensor | Bad]], making: Making
) -> Iterator[tuple[dict[str, dict[str, Tensor]], list[Bad]]]:
    """Rows by identity, and what can't be decoded, batch by batch.

    A batch is taken from its device when the next has been given to it: neither waits.
    """
    given: list[Callable[[], dict[str, dict[str, Tensor]]]] = []
    faults: list[Bad] = []
    while some := list(islice(pictures, making.batch)):
        fine = [(job, image) for job, image in some if isinstance(image, Tensor)]
        next_faults = [image for _, image in some if isinstance(image, Bad)]
        given.append(_launched(fine, making))
        if len(given) > 1:
            yield given.pop(0)(), faults
        faults = next_faults
    for collect in given:
        yield collect(), faults


def _launched(
    pictures: Sequence[tuple[Job, Tensor]], making: Making
) -> Callable[[], dict[str, dict[str, Tensor]]]:
    """Give pictures to the encoder; the answer waits for their latents and makes rows of them."""
    if not pictures:
        return dict
    pixels = torch.stack([image for _, image in pictures])
    with torch.inference_mode():
        raw = making.encode(pixels)
        mirrored = making.encode(pixels.flip(-1)) if making.flip else None

    def collect() -> dict[str, dict[str, Tensor]]:
        keys = [job.picture.key for job, _ in pictures]
        latents, sums = store(raw, making.dtype, keys, making.what)
        columns = {LATENTS: latents, SUMS: sums}
        if mirrored is not None:
            columns[MIRRORED], more = store(mirrored, making.dtype, keys, making.what)
            columns[SUMS] = sums + more
        return {
            job.id: {key: column[row] for key, column in columns.items()}
            for row, (job, _) in enumerate(pictures)
        }

    return collect


def _copied(folder: Path, places: Mapping[str, tuple[str, int]]) -> dict[str, dict[str, Tensor]]:
    """Rows of other shards."""
    files = {file: shards.tensors(folder / file) for file in {file for file, _ in places.values()}}
    return {
        one: {key: column[row] for key, column in files[file].items()}
        for one, (file, row) in places.items()
    }


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
