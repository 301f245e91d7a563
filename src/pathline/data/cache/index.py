"""The end of a writing: the index of the shards' rows, their statistics, removal of old shards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from pathline.data.cache.plan import Plan, RowSettings, ShardPlan, caption_id, picture_id
from pathline.data.cache.reader import (
    FEATURES,
    FORMAT,
    HEAD,
    INDEX,
    LATENTS,
    REFUSED,
    STATS,
    TEXT,
    UNREADABLE,
)
from pathline.data.cache.rows import MIRRORED, SUMS, VALUES, PlacedPicture
from pathline.data.cache.shards import Shard, inventory, is_shard, places, renamed, tensors
from pathline.data.captions import shared
from pathline.data.faults import Fault, refuse, unreadable_problem, write_faults
from pathline.files import digest, write_whole

Places = Mapping[str, tuple[int, int]]  # row id -> (number of its shard, row in it)


def write_index(
    folder: Path,
    plan: Plan,
    settings: RowSettings,
    torn: Sequence[Fault],
    names: Sequence[str],
    *,
    max_bad: float,
) -> int:
    """List the pictures whose rows are in `folder`, delete other shards; the number of pictures.

    torn: what could not be decoded. names: of the classes. Raises ValueError if more than the share
    `max_bad` is unreadable.
    """
    layout, unreadable = plan.layout, [*plan.layout.unreadable, *torn]
    write_faults(folder / UNREADABLE, unreadable)
    write_faults(folder / REFUSED, layout.refused)
    # Images that could not be encoded get no row.
    digests = {fault.digest for fault in torn}
    pictures = [placed for placed in layout.pictures if placed.picture.digest not in digests]
    count = len(unreadable) + len(pictures) + len(layout.refused)
    report = folder / UNREADABLE
    problem = unreadable_problem(unreadable, count, max_bad, report, usable=len(pictures))
    refuse([problem] if problem else [], folder)
    # Where each row is: (shard, position), by kind.
    ids = {LATENTS: (p.id for p in pictures), TEXT: plan.captions, FEATURES: plan.features}
    shards = {kind: _final(folder / kind, plan.shards[kind], list(ids[kind])) for kind in ids}
    where = {kind: places(of_kind) for kind, of_kind in shards.items()}
    lines = [_line(placed, where, settings) for placed in pictures]
    stats = _stats(folder / LATENTS, shards[LATENTS], [line[LATENTS] for line in lines])
    sizes = {placed.place.size for placed in pictures}
    head = {**asdict(settings), "names": list(names), "sizes": sorted(sizes, key=_by_ratio)}
    publish(folder, head, shards, lines, stats)
    return len(lines)


def publish(
    folder: Path,
    head: Mapping[str, Any],
    shards: Mapping[str, Sequence[Shard]],
    lines: Sequence[Mapping[str, Any]],
    stats: Mapping[str, Any],
) -> None:
    """Write index, statistics and, last, the head; then delete shards that it doesn't name."""
    index = "".join(json.dumps(line) + "\n" for line in lines)  # ASCII: a name may be no UTF-8
    # The head is written last: its digests make the index and statistics valid.
    texts = {INDEX: index, STATS: json.dumps(stats, indent=1) + "\n"}
    for file, text in texts.items():
        write_whole(folder / file, text)
    listed = {
        kind: [{"file": shard.file, "rows": len(shard.ids), "bytes": shard.bytes} for shard in of]
        for kind, of in shards.items()
    }
    digests = {file: digest(text) for file, text in texts.items()}
    full = {"format": FORMAT, **head, "rows": len(lines), "shards": listed, "digests": digests}
    write_whole(folder / HEAD, json.dumps(full, indent=1) + "\n")
    # Only now is anything deleted: shards that no row needs any longer.
    for kind, of_kind in shards.items():
        current = {shard.file for shard in of_kind}
        for file in folder.glob(f"{kind}/*"):
            if file.name not in current and is_shard(file):
                file.unlink()


def _by_ratio(size: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    return size[1] / size[0], size


def _final(folder: Path, part: ShardPlan, needed: Sequence[str]) -> list[Shard]:
    """The shards that were retained and written, in the order of their first rows."""
    present = {shard.file: shard for shard in inventory(folder)[0]}
    existing = {row for shard in present.values() for row in shard.ids}  # all but torn ones
    order = {row: number for number, row in enumerate(dict.fromkeys(needed))}
    files = [shard.file for shard in part.retained]
    for file, chunk in part.chunks.items():
        files.append(renamed(file, [row for row in chunk if row in existing]))
    final = [present[file] for file in files if file in present]
    return sorted(final, key=lambda shard: min(order.get(row, len(order)) for row in shard.ids))


def _line(
    placed: PlacedPicture, where: Mapping[str, Places], settings: RowSettings
) -> dict[str, Any]:
    """A picture's line of the index."""
    picture, place = placed.picture, placed.place
    ids = {LATENTS: placed.id}
    if settings.vision:
        ids[FEATURES] = picture_id(FEATURES, settings, picture, place.size)
    # Rows are looked up now, not trusted: shards may have been deleted since the plan.
    for kind, row in ids.items():
        if row not in where[kind]:
            raise ValueError(f"The {kind} of {picture.key} were deleted meanwhile. Start again.")
    captions = picture.captions if settings.text else ()
    return {
        "key": picture.key,
        "bucket": place.size,
        **{kind: where[kind][row] for kind, row in ids.items()},
        TEXT: [where[TEXT][caption_id(settings, caption)] for caption in captions],
        "digest": picture.digest,
        "version": picture.version,
        "size": (picture.height, picture.width),
        "scaled": place.scaled,
        "cut": (place.top, place.left),
        "label": picture.label,
        "captions": picture.captions,
        # Arrangements of one tag list share the weight of a caption.
        "weights": shared([1.0], picture.of or range(len(picture.captions))),
        "of": picture.of,
        "repeats": picture.repeats,
    }


def _stats(
    folder: Path, shards: Sequence[Shard], rows: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Mean and std of what is stored, each picture of the index counted once."""
    total: Any = 0.0  # [2 c]: sums, sums of squares
    count = 0
    numbers, positions = np.array(rows).T
    for number, shard in enumerate(shards):
        table = tensors(folder / shard.file)
        of_shard = positions[numbers == number]
        total = total + table[SUMS].numpy()[of_shard].sum(0)
        count += len(of_shard) * table[VALUES][0, 0].numel() * (1 + (MIRRORED in table))
    return statistics(total, count)


def statistics(total: Float64[np.ndarray, "2 c"], count: int) -> dict[str, Any]:
    """Mean and std, per channel and pooled, of sums and sums of squares over `count` positions."""
    mean, std = _moments(total, count)
    pooled, spread = _moments(total.sum(1, keepdims=True), count * total.shape[1])
    return {
        "positions": count,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "pooled": {"mean": pooled.item(), "std": spread.item()},
    }


def _moments(sums: Float64[np.ndarray, "2 c"], count: int) -> tuple[np.ndarray, np.ndarray]:
    mean = sums[0] / count
    return mean, np.sqrt(np.maximum(sums[1] / count - mean**2, 0))
