"""A cache: latents and text states of a set of pictures on disk, read row by row.

cache.json      what made it, its shards, digests of the two files below; written last
index.jsonl     a line for each picture: key, digest, size, cut, captions, where its rows lie
stats.json      mean and std of the raw latents, pooled and per channel
latents/, text/ shards; null: one row of the condition that asks for nothing
features/       shards of what a vision encoder says of the pictures, where one was named
unreadable.jsonl, refused.jsonl   pictures that are not in it, and why
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from torch import Tensor

from pathline.data.cache import shards, states
from pathline.data.cache.latents import LATENTS, MIRRORED
from pathline.data.captions import choose, shared
from pathline.types import Cond

FORMAT = 1
CACHE, INDEX, STATS = "cache.json", "index.jsonl", "stats.json"
LATENTS_FOLDER, TEXT_FOLDER, NULL = "latents", "text", "null.safetensors"
FEATURES_FOLDER = "features"
UNREADABLE, REFUSED = "unreadable.jsonl", "refused.jsonl"
AGAIN = "Run `pathline preprocess` on it again: what is whole is kept."


class Cached(NamedTuple):
    """Latents and conditions of N pictures, row by row."""

    folder: Path
    keys: list[str]  # [N], in row order
    sizes: list[tuple[int, int]]  # pixel (height, width) of each bucket
    bucket: Int64[Tensor, " n"]  # of a row
    captions: list[tuple[str, ...]]  # [N]; () where there is none
    weights: list[tuple[float, ...]]  # [N], of the captions
    labels: Int64[Tensor, " n"] | None
    names: tuple[str, ...]  # of the classes
    channels: int  # of the latents
    factor: int
    mean: Float[Tensor, " c"]  # of the raw latents
    std: Float[Tensor, " c"]
    codec: str  # what made the latents
    text: str  # what made the states; "" where there are none
    null: Cond  # one row; empty where there are no states
    flipped: bool  # the mirror image of every picture is encoded too
    # rows of one bucket [n], whether each is to be mirrored [n] -> raw float32 [n c h w]
    latents: Callable[[Tensor, Tensor | None], Tensor]
    # rows [n], numbers in [0, 1) [n] that choose among captions -> Cond, padded to the longest
    cond: Callable[[Tensor, Tensor], Cond]
    vision: str = ""  # what made the features; "" where there are none
    vision_width: int = 0
    # as latents, of the same pixels -> float32 [n e i j]; None where there are none
    features: Callable[[Tensor, Tensor | None], Tensor] | None = None


def read(folder: Path, weights: Sequence[float] = ()) -> Cached:
    """Open a cache. Raises ValueError naming what is missing, cut or of another version.

    weights: of a picture's first, second, … caption, the last one for all further; arrangements of
    a tag list share theirs. Empty: as they are stored.
    """
    head, lines = _opened(folder)
    for line in lines if weights else ():
        line["weights"] = shared(weights, line.get("of") or range(len(line["captions"])))
    stats = json.loads((folder / STATS).read_text())
    flat = [float(value) for value in stats["std"]]
    if lines and not min(flat) > 0:
        raise ValueError(
            f"channel {flat.index(min(flat))} of the latents in {folder} never changes; nothing "
            "can be normalised by that. Are all pictures alike?"
        )
    sizes = [(height, width) for height, width in head["sizes"]]
    bucket = torch.tensor([sizes.index(tuple(line["bucket"])) for line in lines])
    labels = [line["label"] for line in lines]
    null = Cond()
    if head["text"]:
        null = states.padded([states.unpacked(shards.tensors(folder / NULL), 0)])
    return Cached(
        folder=folder,
        keys=[line["key"] for line in lines],
        sizes=sizes,
        bucket=bucket,
        captions=[tuple(line["captions"]) for line in lines],
        weights=[tuple(line["weights"]) for line in lines],
        labels=None if not lines or None in labels else torch.tensor(labels),
        names=tuple(head["names"]),
        channels=head["channels"],
        factor=head["factor"],
        mean=torch.tensor(stats["mean"]),
        std=torch.tensor(stats["std"]),
        codec=head["codec"],
        text=head["text"],
        null=null,
        flipped=head["flipped"],
        latents=_rows(folder, head, lines, bucket, LATENTS_FOLDER, "latent"),
        cond=_cond(folder, head, lines, null),
        vision=(seen := head.get("vision", "")),
        vision_width=head.get("vision_width", 0),
        features=_rows(folder, head, lines, bucket, FEATURES_FOLDER, "feature") if seen else None,
    )


def refuse_other(cached: Cached, codec: str, text: str) -> None:
    """Raise ValueError where the cache was made by another codec or text encoder than asked for.

    text: "" where the run needs no stored states.
    """
    for what, mine, wanted in (("codec", cached.codec, codec), ("text", cached.text, text)):
        if wanted and mine != wanted:
            made = f"were made by {mine!r}" if mine else "are not in it"
            rows = "latents" if what == "codec" else "text states"
            raise ValueError(
                f"{cached.folder}: the {rows} {made}, but this run's {what} is {wanted!r}. Take "
                f"that {what}, or run `pathline preprocess` with this one into another --out."
            )


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _opened(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Head and lines of a cache that is all there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no cache {folder}; `pathline preprocess` makes one.")
    if not (folder / CACHE).is_file():
        begun = (folder / LATENTS_FOLDER).is_dir() or (folder / TEXT_FOLDER).is_dir()
        wrong = "is not finished: it has no" if begun else "is no cache: it has no"
        raise ValueError(f"{folder} {wrong} {CACHE}. Run `pathline preprocess … --out {folder}`.")
    try:
        head = json.loads((folder / CACHE).read_text("utf-8"))
        version = head["format"]
    except (ValueError, KeyError, TypeError) as fault:
        raise ValueError(f"{folder / CACHE} is damaged: {fault}. {AGAIN}") from None
    if version != FORMAT:
        raise ValueError(
            f"{folder} is a cache of format {version}; this pathline reads {FORMAT}. {AGAIN}"
        )
    for file, key in ((INDEX, "index"), (STATS, "stats")):
        text = (folder / file).read_text("utf-8") if (folder / file).is_file() else ""
        if digest(text) != head[key]:
            raise ValueError(f"{folder / file} is cut, changed or missing. {AGAIN}")
    _refuse_missing(folder, head)
    return head, [json.loads(line) for line in (folder / INDEX).read_text("utf-8").splitlines()]


def _refuse_missing(folder: Path, head: dict[str, Any]) -> None:
    """Every shard must be there at its full length."""
    rooms = rooms_of(head)
    there = [(folder / room / s["file"], s["bytes"]) for room, found in rooms for s in found]
    wrong = [f for f, size in there if not f.is_file() or f.stat().st_size != size]
    wrong += [folder / NULL] if head["text"] and not (folder / NULL).is_file() else []
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{wrong[0]}{more} is missing or cut. {AGAIN}")


def rooms_of(head: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The folders of a cache and the shards that its head names in each."""
    named = (LATENTS_FOLDER, "latents"), (TEXT_FOLDER, "texts"), (FEATURES_FOLDER, "features")
    return [(folder, head.get(key, [])) for folder, key in named]


def _mapped(folder: Path, found: Sequence[dict[str, Any]], *keys: str) -> list[dict[str, Tensor]]:
    """The tensors of all shards at once: a mapped file can be read after it was deleted.

    So `pathline preprocess` may write the cache anew while a training reads it. A shard costs half
    a millisecond, whatever it holds.
    """
    tables = []
    for shard in found:
        try:
            tables.append(shards.tensors(folder / shard["file"], *keys))
        except (SafetensorError, OSError) as fault:
            raise ValueError(f"{folder / shard['file']} can't be read: {fault}. {AGAIN}") from None
    return tables


def _rows(
    folder: Path,
    head: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    bucket: Tensor,
    room: str,
    key: str,
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Latents, or features: shards of this room, places of this entry of the lines."""
    tables = _mapped(folder / room, dict(rooms_of(head))[room], LATENTS, MIRRORED)
    shard = np.array([line[key][0] for line in lines], np.int64)
    place = np.array([line[key][1] for line in lines], np.int64)

    def stored(
        rows: Int64[Tensor, " n"], flips: Bool[Tensor, " n"] | None
    ) -> Float[Tensor, "n c h w"]:
        """What is stored of rows that lie in one bucket. Raises ValueError for rows of several."""
        if len(kinds := bucket[rows].unique()) != 1:
            raise ValueError(f"rows of {len(kinds)} buckets can't be stacked; take those of one")
        if flips is not None and flips.any() and not head["flipped"]:
            raise ValueError(
                f"{folder} holds no mirror images, and mirrored latents are not those of the "
                "mirrored picture. Take data.flip=false, or preprocess with data.flip=true."
            )
        numbers = rows.numpy()
        in_shard, at = shard[numbers], torch.from_numpy(place[numbers])
        mirror = torch.zeros(len(rows), dtype=torch.bool) if flips is None else flips.cpu()
        out = None
        for number in np.unique(in_shard):
            here = torch.from_numpy(in_shard == number)
            for column, some in ((LATENTS, here & ~mirror), (MIRRORED, here & mirror)):
                if some.any():
                    found = tables[number][column].index_select(0, at[some])
                    out = torch.empty(len(rows), *found.shape[1:]) if out is None else out
                    out[some] = found.float()
        assert out is not None
        return out

    return stored


def _cond(
    folder: Path, head: dict[str, Any], lines: Sequence[dict[str, Any]], null: Cond
) -> Callable[[Tensor, Tensor], Cond]:
    tables = _mapped(folder / TEXT_FOLDER, head["texts"])
    nothing = states.trimmed(null, [""], head["text_dtype"])[0] if head["text"] else (None, None)

    def row(place: Sequence[int]) -> states.Row:
        number, at = place
        return states.unpacked(tables[number], at)

    def cond(rows: Int64[Tensor, " n"], choice: Float[Tensor, " n"]) -> Cond:
        """One of each row's captions by its weight; the null condition for a row without any."""
        if not head["text"]:
            return Cond()
        asked = [lines[number] for number in rows.tolist()]
        which = choose(choice, [line["weights"] for line in asked]).tolist()
        found = zip(asked, which, strict=True)
        return states.padded([nothing if w < 0 else row(line["states"][w]) for line, w in found])

    return cond
