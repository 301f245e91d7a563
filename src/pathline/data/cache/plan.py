"""What a cache needs: where every picture goes, which rows exist, which are to be written."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pathline.data.buckets import Buckets, Size, place, size_name, too_small
from pathline.data.cache.reader import FEATURES, INDEX, LATENTS, TEXT, UNREADABLE
from pathline.data.cache.rows import PlacedPicture
from pathline.data.cache.scan import FileInfo, Picture, scan
from pathline.data.cache.shards import Shard, file_name, inventory, row_id
from pathline.data.captions import refuse_missing_captions
from pathline.data.faults import Fault, read_faults
from pathline.data.sources.source import Source
from pathline.dtypes import Dtype
from pathline.weights import DTYPES

CUT_VERSION = 1  # raised when the same picture would be cut or scaled differently
SHARD_BYTES, SHARD_PICTURES, SHARD_CAPTIONS = 256_000_000, 2048, 1024
Tick = Callable[[str, int, int], None]  # (kind of rows, done, total)


@dataclass(frozen=True)
class RowSettings:
    """What rows are made with. A change of these makes rows again."""

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
class WriteOptions:
    """How the work is done; none of it changes a row."""

    batch: int = 32
    shard_rows: int = 0  # 0: about 256 MB
    missing: Literal["refuse", "null"] = "refuse"  # captions
    max_bad: float = 0.01


class Layout(NamedTuple):
    """Where every picture of a source goes."""

    pictures: list[PlacedPicture]  # those that are used, in the source's order
    unreadable: list[Fault]
    refused: list[Fault]  # would be enlarged too far
    enlarged: list[Fault]  # are enlarged that far, as data.buckets.small=keep asks


class ShardPlan(NamedTuple):
    """The shards of one kind: which stay, which rows are to be written."""

    retained: list[Shard]
    chunks: dict[str, list[str]]  # file -> row ids
    present: list[Shard]
    damaged: list[str]

    @property
    def new(self) -> set[str]:
        """Rows that are in no shard yet."""
        existing = {row for shard in self.present for row in shard.ids}
        return {row for chunk in self.chunks.values() for row in chunk} - existing


class Plan(NamedTuple):
    """All that is to be done."""

    layout: Layout
    captions: dict[str, str]  # row id of its states -> caption
    features: dict[str, PlacedPicture]  # row id of its features -> picture
    shards: dict[str, ShardPlan]  # by kind


def make_plan(
    folder: Path,
    source: Source,
    buckets: Buckets,
    settings: RowSettings,
    options: WriteOptions,
    tick: Tick,
) -> Plan:
    """Scan the source and list what is in `folder`. Raises ValueError for missing captions."""
    # Scanning decides everything else: what is unreadable, too small, or without a caption.
    layout = lay_out(folder, source, buckets, settings, tick)
    pictures = layout.pictures
    if not pictures:
        first = [*layout.unreadable, *layout.refused][0].reason
        raise ValueError(f"none of {source.count} pictures can be used: {first}")
    if settings.text and options.missing == "refuse":
        refuse_missing_captions({p.picture.key: p.picture.captions for p in pictures})
    captions, features = _captions(pictures, settings), _features(pictures, settings)
    # Rows of one shard are of one size, so pictures are grouped by bucket.
    groups = {
        LATENTS: _by_bucket(pictures),
        TEXT: {"text": list(captions)},
        FEATURES: _by_bucket(features.values()),
    }
    names = {size_name(size): size for size in buckets.sizes}

    def most_rows(kind: str, group: str) -> int:
        if kind == TEXT:
            return SHARD_CAPTIONS
        return options.shard_rows or _shard_rows(settings, kind, names[group])

    plans = {kind: _plan_shards(folder / kind, kind, of, most_rows) for kind, of in groups.items()}
    return Plan(layout, captions, features, plans)


def lay_out(
    folder: Path, source: Source, buckets: Buckets, settings: RowSettings, tick: Tick
) -> Layout:
    """Place every picture of the source in its bucket, or list why it has none."""
    earlier, undecodable = _earlier_scan(folder)
    pictures, unreadable = scan(
        source, earlier, undecodable, lambda count: tick("scanning", count, source.count)
    )
    placed, refused, enlarged = [], [], []
    for picture in pictures:
        cut = place(picture.height, picture.width, buckets.sizes)
        reason = too_small(picture.height, picture.width, cut, buckets.upscale)
        # A size that is too small is refused, or noted and enlarged.
        if reason:
            faults = refused if buckets.small == "refuse" else enlarged
            faults.append(Fault(picture.key, reason, picture.digest, cut.size))
        if not reason or buckets.small == "keep":
            row = picture_id(LATENTS, settings, picture, cut.size)
            placed.append(PlacedPicture(row, picture, cut))
    return Layout(placed, unreadable, refused, enlarged)


def _plan_shards(
    folder: Path, kind: str, groups: Mapping[str, list[str]], most_rows: Callable[[str, str], int]
) -> ShardPlan:
    """Which shards of the folder stay, and which are to be written, group by group."""
    present, damaged = inventory(folder)
    plan = ShardPlan([], {}, present, damaged)
    for prefix, needed in groups.items():
        candidates = [shard for shard in present if shard.file.startswith(f"{prefix}-")]
        retained, chunks = choose_shards(needed, candidates, most_rows(kind, prefix))
        plan.retained.extend(retained)
        plan.chunks.update({file_name(prefix, chunk): chunk for chunk in chunks})
    return plan


def choose_shards(
    needed: Iterable[str], present: Iterable[Shard], most: int
) -> tuple[list[Shard], list[list[str]]]:
    """Shards to keep, and rows to write: in the order needed, at most `most` a shard.

    A shard stays if all of its rows are needed. The rows of other shards are among those to write,
    and so are those of shards less than half full, once anything is to be written.
    """
    order = {row: number for number, row in enumerate(dict.fromkeys(needed))}
    # Larger shards first; a row counts in one of them only.
    retained, covered = [], set[str]()
    for shard in sorted(present, key=lambda shard: (-len(shard.ids), shard.file)):
        if all(row in order and row not in covered for row in shard.ids):
            retained.append(shard)
            covered.update(shard.ids)
    if len(covered) < len(order):
        retained = [shard for shard in retained if 2 * len(shard.ids) >= most]
        covered = {row for shard in retained for row in shard.ids}
    rest = [row for row in order if row not in covered]
    return retained, [rest[start : start + most] for start in range(0, len(rest), most)]


def caption_id(settings: RowSettings, caption: str | None) -> str:
    """The row id of a caption's states; None for the null condition."""
    return row_id(TEXT, settings.text, settings.text_dtype, caption)


def picture_id(kind: str, settings: RowSettings, picture: Picture, size: Size) -> str:
    """The row id of a picture's latents or features."""
    encoder = settings.codec if kind == LATENTS else settings.vision
    sources = kind, CUT_VERSION, encoder, settings.colours, settings.flip, settings.dtype
    return row_id(*sources, picture.digest, *size)


def _captions(pictures: Iterable[PlacedPicture], settings: RowSettings) -> dict[str, str]:
    """Every caption once, by row id, in the order of the pictures."""
    if not settings.text:
        return {}
    captions = dict.fromkeys(text for placed in pictures for text in placed.picture.captions)
    return {caption_id(settings, caption): caption for caption in captions}


def _features(pictures: Iterable[PlacedPicture], settings: RowSettings) -> dict[str, PlacedPicture]:
    """Every picture once, by the row id of its features."""
    if not settings.vision:
        return {}
    features = (
        placed._replace(id=picture_id(FEATURES, settings, placed.picture, placed.place.size))
        for placed in pictures
    )
    return {placed.id: placed for placed in features}


def _by_bucket(pictures: Iterable[PlacedPicture]) -> dict[str, list[str]]:
    """Row ids by the name of their bucket."""
    groups: dict[str, list[str]] = {}
    for placed in pictures:
        groups.setdefault(size_name(placed.place.size), []).append(placed.id)
    return groups


def _shard_rows(settings: RowSettings, kind: str, size: Size) -> int:
    """Rows of a shard: about 256 MB, and no more than an interruption may cost."""
    if kind == LATENTS:
        height, width = (side // settings.factor for side in size)
        numbers = settings.channels * height * width
    else:
        numbers = settings.vision_width * settings.vision_tokens
    row_bytes = max(1, numbers) * DTYPES[settings.dtype].itemsize * (1 + settings.flip)
    return min(max(1, SHARD_BYTES // row_bytes), SHARD_PICTURES)


def _earlier_scan(folder: Path) -> tuple[Mapping[str, FileInfo], Mapping[str, str]]:
    """What an earlier scan noted: key -> its file, digest -> why it can't be decoded.

    A file that could not be read is not among the latter: it may be whole. A damaged index notes
    nothing, and everything is scanned again.
    """
    try:
        lines = [json.loads(line) for line in (folder / INDEX).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    earlier = {}
    for line in lines:
        version = tuple(line["version"]) if line["version"] else None
        earlier[line["key"]] = FileInfo(version, line["digest"], *line["size"])
    faults = read_faults(folder / UNREADABLE)
    return earlier, {f.digest: f.reason for f in faults if f.digest and not f.temporary}
