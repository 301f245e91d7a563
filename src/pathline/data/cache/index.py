"""The end of a writing: the index of what lies in the shards, its statistics, nothing left over."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from pathline.data.cache import shards
from pathline.data.cache.latents import LATENTS, MIRRORED, SUMS, Job
from pathline.data.cache.plan import Plan, Room, Spec, caption_id, feature_id
from pathline.data.cache.reader import (
    CACHE,
    FEATURES_FOLDER,
    FORMAT,
    INDEX,
    LATENTS_FOLDER,
    REFUSED,
    STATS,
    TEXT_FOLDER,
    UNREADABLE,
    digest,
    rooms_of,
)
from pathline.data.cache.scan import Bad
from pathline.data.cache.shards import Shard
from pathline.data.captions import shared

SHOWN = 5  # unreadable pictures named in an error


def commit(
    folder: Path,
    plan: Plan,
    spec: Spec,
    *,
    broken: Sequence[Bad],
    names: Sequence[str],
    max_bad: float,
) -> int:
    """Name what lies in `folder`, delete the rest; returns the number of pictures.

    broken: what could not be decoded. Raises ValueError if that is more than the share `max_bad`.
    """
    laid, bad = plan.laid, [*plan.laid.bad, *broken]
    report(folder / UNREADABLE, bad)
    report(folder / REFUSED, laid.refused)
    torn = {one.digest for one in broken}
    jobs = [job for job in laid.jobs if job.picture.digest not in torn]
    refuse_bad(folder, bad, len(bad) + len(jobs) + len(laid.refused), max_bad, left=len(jobs))
    latents = _final(folder / LATENTS_FOLDER, plan.latents, [job.id for job in jobs])
    texts = _final(folder / TEXT_FOLDER, plan.text, list(plan.said))
    needed = [feature_id(spec, job) for job in jobs] if spec.vision else []
    features = _final(folder / FEATURES_FOLDER, plan.features, needed)
    places, spoken, seen = _places(latents), _places(texts), _places(features)
    lines = [_line(job, places, spoken, seen, spec) for job in jobs]
    stats = _stats(folder / LATENTS_FOLDER, latents, [line["latent"] for line in lines])
    sizes = sorted({job.place.size for job in jobs}, key=lambda size: (size[1] / size[0], size))
    head = {"format": FORMAT, **asdict(spec), "flipped": spec.flip, "names": list(names)}
    head |= {"sizes": sizes, "latents": named(latents), "texts": named(texts)}
    head["features"] = named(features)
    publish(folder, head, lines, stats)
    return len(lines)


def publish(
    folder: Path, head: dict[str, Any], lines: Sequence[dict[str, Any]], stats: dict[str, Any]
) -> None:
    """Write index, statistics and head, then delete shards that the head doesn't name."""
    index = "".join(json.dumps(line) + "\n" for line in lines)  # ASCII: a name may be no UTF-8
    texts = {INDEX: index, STATS: json.dumps(stats, indent=1) + "\n"}
    for file, text in texts.items():
        shards.replace(folder / file, text)
    head |= {"rows": len(lines), "index": digest(index), "stats": digest(texts[STATS])}
    shards.replace(folder / CACHE, json.dumps(head, indent=1) + "\n")
    for room, found in rooms_of(head):
        named = {shard["file"] for shard in found}
        for file in folder.glob(f"{room}/*"):
            if file.name not in named and shards.is_own(file):
                file.unlink()


def report(file: Path, found: Sequence[Bad]) -> None:
    """List pictures with their reasons, a line each; no file for none."""
    if found:
        lines = (json.dumps(one._asdict()) + "\n" for one in found)
        shards.replace(file, "".join(lines))
    else:
        file.unlink(missing_ok=True)


def refuse_bad(folder: Path, bad: Sequence[Bad], count: int, max_bad: float, *, left: int) -> None:
    """Raise ValueError where too many pictures can't be read, or none is left."""
    if len(bad) > max_bad * count or not left:
        first = "; ".join(one.reason for one in bad[:SHOWN])
        raise ValueError(
            f"{len(bad)} of {count} pictures can't be read, more than data.max_bad={max_bad:g} "
            f"allows: {first}{' …' if len(bad) > SHOWN else ''}. All are listed in "
            f"{folder / UNREADABLE}. Mend or remove them."
        )


def _final(folder: Path, room: Room, needed: Sequence[str]) -> list[Shard]:
    """The shards that were kept and those that were written, in the order of their first rows."""
    there = {shard.file: shard for shard in shards.inventory(folder)[0]}
    present = {one for shard in there.values() for one in shard.ids}  # all but what broke
    order = {one: number for number, one in enumerate(dict.fromkeys(needed))}
    files = [shard.file for shard in room.kept]
    for file, chunk in room.chunks.items():
        files.append(shards.renamed(file, [one for one in chunk if one in present]))
    found = [there[file] for file in files if file in there]
    return sorted(found, key=lambda shard: min(order.get(one, len(order)) for one in shard.ids))


def _places(found: Sequence[Shard]) -> dict[str, tuple[int, int]]:
    """Identity -> (number of its shard, row)."""
    return {
        one: (number, row)
        for number, shard in enumerate(found)
        for row, one in enumerate(shard.ids)
    }


def _line(job: Job, latents: dict, texts: dict, seen: dict, spec: Spec) -> dict[str, Any]:
    """A picture's line of the index."""
    picture, place = job.picture, job.place
    feature = feature_id(spec, job) if spec.vision else None
    if job.id not in latents or (feature and feature not in seen):
        raise ValueError(f"what was written of {picture.key} is gone; start again")
    said = picture.captions
    return {
        "key": picture.key,
        "bucket": place.size,
        "latent": latents[job.id],
        **({"feature": seen[feature]} if feature else {}),
        "digest": picture.digest,
        "stamp": picture.stamp,
        "size": (picture.height, picture.width),
        "scaled": place.scaled,
        "cut": (place.top, place.left),
        "cropped": round(place.cropped, 6),
        "label": picture.label,
        "captions": said,
        "weights": shared([1.0], picture.of or range(len(said))),
        "of": picture.of,
        "states": [texts[caption_id(spec, text)] for text in said] if spec.text else [],
    }


def _stats(
    folder: Path, found: Sequence[Shard], places: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Mean and std of what is stored, each picture of the index counted once."""
    total: Any = 0.0  # [2 c]: sums, sums of squares
    count = 0
    shard, row = np.array(places).T
    for number, one in enumerate(found):
        table = shards.tensors(folder / one.file)
        here = row[shard == number]
        total = total + table[SUMS].numpy()[here].sum(0)
        count += len(here) * table[LATENTS][0, 0].numel() * (1 + (MIRRORED in table))
    return statistics(total, count)


def statistics(total: Float64[np.ndarray, "2 c"], count: int) -> dict[str, Any]:
    """Sums and sums of squares over `count` positions as mean and std, per channel and pooled."""

    every, places = total.sum(1, keepdims=True), count * total.shape[1]
    mean, std = _moments(total, count)
    pooled, spread = _moments(every, places)
    return {
        "positions": count,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "pooled": {"mean": pooled.item(), "std": spread.item()},
    }


def _moments(sums: Float64[np.ndarray, "2 c"], count: int) -> tuple[np.ndarray, np.ndarray]:
    mean = sums[0] / count
    return mean, np.sqrt(np.maximum(sums[1] / count - mean**2, 0))


def named(found: Sequence[Shard]) -> list[dict[str, Any]]:
    return [{"file": s.file, "rows": len(s.ids), "bytes": s.bytes} for s in found]
