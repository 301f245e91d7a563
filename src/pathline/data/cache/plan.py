"""What a cache needs: where every picture goes, which rows are there, which are to be written."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pathline.data.buckets import Buckets, Size, place, too_small
from pathline.data.cache import shards
from pathline.data.cache.latents import Job, size_of
from pathline.data.cache.reader import (
    FEATURES_FOLDER,
    INDEX,
    LATENTS_FOLDER,
    TEXT_FOLDER,
    UNREADABLE,
)
from pathline.data.cache.scan import Bad, Picture, Seen, scan
from pathline.data.sources.source import Source
from pathline.dtypes import Dtype
from pathline.types import DTYPES

CUT = 1  # raised when the same picture would be cut or scaled otherwise
SHARD_BYTES, SHARD_PICTURES, SHARD_CAPTIONS = 256_000_000, 2048, 1024
Tick = Callable[[str, int, int], None]  # (what is done, so many, of so many)


@dataclass(frozen=True)
class Spec:
    """What latents and states are made by. What changes here makes rows anew."""

    codec: str  # ids
    text: str  # "": no states are stored
    factor: int
    channels: int  # of the latents
    colours: int = 3  # channels of the pictures
    flip: bool = False  # the mirror image of every picture is encoded too
    dtype: Dtype = "fp16"
    text_dtype: Dtype = "fp16"
    vision: str = ""  # id; "": no features are stored
    vision_width: int = 0
    vision_tokens: int = 0  # of a square picture


@dataclass(frozen=True)
class Manner:
    """How the work is done; none of it changes a row."""

    batch: int = 32
    shard_rows: int = 0  # 0: as many as make some 256 MB
    missing: Literal["refuse", "null"] = "refuse"  # captions
    max_bad: float = 0.01


class Laid(NamedTuple):
    """Where every picture of a source goes."""

    jobs: list[Job]  # those that are taken, in the source's order
    bad: list[Bad]  # can't be read
    refused: list[Bad]  # would be enlarged too far
    enlarged: list[Bad]  # are enlarged so far, as was wished


class Room(NamedTuple):
    """Shards of one kind: which stay, which rows are to be written."""

    kept: list[shards.Shard]
    chunks: dict[str, list[str]]  # file -> rows
    there: list[shards.Shard]
    damaged: list[str]

    @property
    def new(self) -> list[str]:
        """Rows that lie in no shard yet."""
        known = {one for shard in self.there for one in shard.ids}
        return [one for chunk in self.chunks.values() for one in chunk if one not in known]


class Plan(NamedTuple):
    """All that is to be done."""

    laid: Laid
    latents: Room
    text: Room
    said: dict[str, str]  # identity -> caption
    features: Room
    seen: dict[str, Job]  # identity of its features -> picture


def planned(
    folder: Path, source: Source, buckets: Buckets, spec: Spec, manner: Manner, tick: Tick
) -> Plan:
    """Look at the source and at what lies in `folder`. Raises ValueError for missing captions."""
    laid = lay(folder, source, buckets, spec, tick)
    if not laid.jobs:
        first = [*laid.bad, *laid.refused][0].reason
        raise ValueError(f"none of {source.count} pictures can be used: {first}")
    if spec.text and manner.missing == "refuse":
        _refuse_missing([job.picture for job in laid.jobs])
    most = {size_of(size): manner.shard_rows or _rows(spec, size) for size in buckets.sizes}
    said, seen = _said(laid, spec), _seen(laid, spec)
    few = manner.shard_rows or _shard_rows(spec, spec.vision_width * spec.vision_tokens)
    return Plan(
        laid,
        _room(folder / LATENTS_FOLDER, _groups(laid.jobs), most),
        _room(folder / TEXT_FOLDER, {"text": list(said)}, {"text": SHARD_CAPTIONS}),
        said,
        _room(folder / FEATURES_FOLDER, _groups(seen.values()), dict.fromkeys(most, few)),
        seen,
    )


def _groups(jobs: Iterable[Job]) -> dict[str, list[str]]:
    """Identities by bucket."""
    groups: dict[str, list[str]] = {}
    for job in jobs:
        groups.setdefault(size_of(job.place.size), []).append(job.id)
    return groups


def lay(folder: Path, source: Source, buckets: Buckets, spec: Spec, tick: Tick) -> Laid:
    """Every picture of the source at its place, or in a list of those that have none."""
    known, broken = _known(folder)
    pictures, bad = scan(source, known, broken, lambda n: tick("looking", n, source.count))
    jobs, refused, enlarged = [], [], []
    for picture in pictures:
        found = place(picture.height, picture.width, buckets.sizes)
        reason = too_small(picture.height, picture.width, found, buckets.upscale)
        if reason:
            listed = refused if buckets.small == "refuse" else enlarged
            listed.append(Bad(picture.key, reason, picture.digest, found.size))
        if not reason or buckets.small == "keep":
            jobs.append(Job(_id(spec, picture, found.size), picture, found))
    return Laid(jobs, bad, refused, enlarged)


def _room(folder: Path, groups: Mapping[str, list[str]], most: Mapping[str, int]) -> Room:
    """What of these rows lies in shards of the folder, and the shards to write."""
    there, damaged = shards.inventory(folder)
    room = Room([], {}, there, damaged)
    for prefix, needed in groups.items():
        own = [shard for shard in there if shard.file.startswith(f"{prefix}-")]
        kept, chunks = shards.plan(needed, own, most[prefix])
        room.kept.extend(kept)
        room.chunks.update({shards.name(prefix, chunk): chunk for chunk in chunks})
    return room


def caption_id(spec: Spec, caption: str | None) -> str:
    """The identity of a caption's states; None for the null."""
    return shards.identity("text", spec.text, spec.text_dtype, caption)


def _id(spec: Spec, picture: Picture, size: Size) -> str:
    made_by = (CUT, spec.codec, spec.colours, spec.flip, spec.dtype)
    return shards.identity("latent", *made_by, picture.digest, *size)


def feature_id(spec: Spec, job: Job) -> str:
    """The identity of what the vision encoder says of a picture."""
    made_by = (CUT, spec.vision, spec.colours, spec.flip, spec.dtype)
    return shards.identity("feature", *made_by, job.picture.digest, *job.place.size)


def _seen(laid: Laid, spec: Spec) -> dict[str, Job]:
    """Every picture once, by the identity of its features."""
    if not spec.vision:
        return {}
    named = ((feature_id(spec, job), job) for job in laid.jobs)
    return {one: job._replace(id=one) for one, job in named}


def _said(laid: Laid, spec: Spec) -> dict[str, str]:
    """Every caption once, by identity, in the order of the pictures."""
    if not spec.text:
        return {}
    captions = dict.fromkeys(text for job in laid.jobs for text in job.picture.captions)
    return {caption_id(spec, caption): caption for caption in captions}


def _rows(spec: Spec, size: Size) -> int:
    """Rows of a shard: some 256 MB, and no more than a kill may cost."""
    return _shard_rows(spec, spec.channels * (size[0] // spec.factor) * (size[1] // spec.factor))


def _shard_rows(spec: Spec, numbers: int) -> int:
    """The same for rows of so many numbers."""
    most = SHARD_BYTES // (max(1, numbers) * DTYPES[spec.dtype].itemsize * (1 + spec.flip))
    return min(max(1, most), SHARD_PICTURES)


def _refuse_missing(pictures: Sequence[Picture]) -> None:
    missing = [picture.key for picture in pictures if not picture.captions]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pictures)} pictures have no caption, the first {missing[0]}. "
            "Caption them, or train them unconditionally with data.missing_captions=null."
        )


def _known(folder: Path) -> tuple[Mapping[str, Seen], Mapping[str, str]]:
    """What an earlier look found: key -> what was seen, digest -> why it can't be decoded.

    A file that could not be read is no such: it may be whole.
    """
    seen = {}
    for line in _lines(folder / INDEX):
        stamp = tuple(line["stamp"]) if line["stamp"] else None
        seen[line["key"]] = Seen(stamp, line["digest"], *line["size"])
    faults = _lines(folder / UNREADABLE)
    lasting = [line for line in faults if line["digest"] and not line.get("passing")]
    return seen, {line["digest"]: line["reason"] for line in lasting}


def _lines(file: Path) -> list[dict]:
    """The records of a file of ours; none of one that is damaged: then all is looked at anew."""
    try:
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []
