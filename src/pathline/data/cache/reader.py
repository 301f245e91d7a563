"""A cache: latents, text states and features of a set of pictures on disk, read row by row.

cache.json      what made it, its shards, digests of the two files below; written last
index.jsonl     a line for each picture: key, digest, size, cut, captions, where its rows are
stats.json      mean and std of the raw latents, pooled and per channel
latents/, text/, features/   shards; null: one row, the null condition
unreadable.jsonl, refused.jsonl   pictures that are not in it, and why
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from torch import Tensor

from pathline.data.cache.rows import MIRRORED, POOLED, VALUES
from pathline.data.cache.shards import TOKENS, Row, tensors, unpack
from pathline.data.captions import choose, shared
from pathline.files import digest
from pathline.types import Cond

FORMAT = 2
HEAD, INDEX, STATS, NULL = "cache.json", "index.jsonl", "stats.json", "null.safetensors"
LATENTS, TEXT, FEATURES = "latents", "text", "features"  # kinds of rows, and their folders
UNREADABLE, REFUSED = "unreadable.jsonl", "refused.jsonl"
REPAIR = "Run `pathline preprocess` on it again: what is whole stays."
ROUND = 8  # token lengths are padded to a multiple of this
Line = dict[str, Any]


class Cache(NamedTuple):
    """Latents and conditions of N pictures, row by row."""

    folder: Path
    keys: list[str]  # [N], in row order
    sizes: list[tuple[int, int]]  # pixel (height, width) of each bucket
    bucket: Int64[Tensor, " n"]  # of a row
    captions: list[tuple[str, ...]]  # [N]; () where there is none
    weights: list[tuple[float, ...]]  # [N], of the captions
    repeats: list[int]  # [N] times each comes in an epoch
    labels: Int64[Tensor, " n"] | None
    names: tuple[str, ...]  # of the classes
    channels: int  # of the latents
    factor: int
    mean: Float[Tensor, " c"]  # of the raw latents
    std: Float[Tensor, " c"]
    codec: str  # id of what made the latents
    text: str  # id of what made the states; "" where there are none
    null: Cond  # one row; empty where there are no states
    flipped: bool  # the mirror image of every picture is encoded too
    # rows of one bucket [n], whether each is to be mirrored [n] -> raw float32 [n c h w]
    latents: Callable[[Tensor, Tensor | None], Tensor]
    # rows [n], numbers in [0, 1) [n] that choose among captions -> Cond, padded to the longest
    cond: Callable[[Tensor, Tensor], Cond]
    vision: str = ""  # id of what made the features; "" where there are none
    vision_width: int = 0
    # as latents, of the same pixels -> float32 [n e i j]; None where there are none
    features: Callable[[Tensor, Tensor | None], Tensor] | None = None


def read(folder: Path, weights: Sequence[float] = ()) -> Cache:
    """Open a cache. Raises ValueError naming what is missing, cut or of another version.

    weights: of a picture's first, second, … caption, the last one for all further; arrangements of
    a tag list share theirs. Empty: as they are stored.
    """
    head, lines = _open(folder)
    # Weights are a choice of the run: the cache need not be made again for others.
    for line in lines if weights else ():
        line["weights"] = shared(weights, line.get("of") or range(len(line["captions"])))
    stats = json.loads((folder / STATS).read_text("utf-8"))
    # Latents are divided by their std, so a constant channel would be 0 / 0.
    _refuse_constant_channel(folder, stats["std"] if lines else [])
    sizes = [(height, width) for height, width in head["sizes"]]
    # Rows as tensors; latents and states stay in mapped files.
    labels = [line["label"] for line in lines]
    buckets = torch.tensor([sizes.index(tuple(line["bucket"])) for line in lines])
    null = unpack(tensors(folder / NULL), 0) if head["text"] else {}
    latents = _value_reader(folder, head, lines, buckets, LATENTS)
    return Cache(
        folder=folder,
        keys=[line["key"] for line in lines],
        sizes=sizes,
        bucket=buckets,
        captions=[tuple(line["captions"]) for line in lines],
        weights=[tuple(line["weights"]) for line in lines],
        repeats=[line.get("repeats", 1) for line in lines],
        labels=None if not lines or None in labels else torch.tensor(labels),
        names=tuple(head["names"]),
        channels=head["channels"],
        factor=head["factor"],
        mean=torch.tensor(stats["mean"]),
        std=torch.tensor(stats["std"]),
        codec=head["codec"],
        text=head["text"],
        null=pad_states([null]),
        flipped=head["flip"],
        latents=latents,
        cond=_cond_reader(folder, head, lines, null),
        vision=head["vision"],
        vision_width=head["vision_width"],
        features=_value_reader(folder, head, lines, buckets, FEATURES) if head["vision"] else None,
    )


def refuse_other(cache: Cache, codec: str, text: str) -> None:
    """Raise ValueError where another codec or text encoder made the cache.

    codec, text: ids. text: "" where the run needs no stored states.
    """
    rows = [("codec", "latents", cache.codec, codec)]
    rows += [("text", "text states", cache.text, text)] if text else []
    for setting, values, stored, needed in rows:
        if stored != needed:
            origin = f"has {values} of {stored!r}" if stored else f"has no {values}"
            raise ValueError(
                f"data.cache={cache.folder} is wrong because it {origin}, and this run's {setting} "
                f"is {needed!r}. Use the {setting} that made the cache, or make another one: "
                "`pathline preprocess … --out ANOTHER`."
            )


def pad_states(rows: Sequence[Row]) -> Cond:
    """Rows of text states as a float32 condition, tokens padded by zeros to the longest."""
    cond = Cond()
    if POOLED in rows[0]:
        cond = cond._replace(pooled=torch.stack([row[POOLED].float() for row in rows]))
    if TOKENS not in rows[0]:
        return cond
    lengths = torch.tensor([len(row[TOKENS]) for row in rows])
    # Padding to a multiple of ROUND keeps the number of shapes low that are compiled.
    longest = -(-max(1, int(lengths.max())) // ROUND) * ROUND
    table = torch.zeros(len(rows), longest, rows[0][TOKENS].shape[1])
    for line, row in zip(table, rows, strict=True):
        line[: len(row[TOKENS])] = row[TOKENS]
    return cond._replace(tokens=table, mask=torch.arange(longest) < lengths[:, None])


def _open(folder: Path) -> tuple[dict[str, Any], list[Line]]:
    """Head and lines of a cache that is complete."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no cache {folder}. `pathline preprocess` makes one.")
    if not (folder / HEAD).is_file():
        is_begun = (folder / LATENTS).is_dir() or (folder / TEXT).is_dir()
        wrong = "is not finished: it has no" if is_begun else "is no cache: it has no"
        raise ValueError(f"{folder} {wrong} {HEAD}. Run `pathline preprocess … --out {folder}`.")
    try:
        head = json.loads((folder / HEAD).read_text("utf-8"))
        version = head["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / HEAD} is damaged: {error}. {REPAIR}") from None
    if version != FORMAT:
        raise ValueError(
            f"{folder} is a cache of format {version}, written by another version of pathline, "
            f"which reads {FORMAT}. {REPAIR}"
        )
    # A cut or edited index would name wrong rows.
    for file in (INDEX, STATS):
        text = (folder / file).read_text("utf-8") if (folder / file).is_file() else ""
        if digest(text) != head["digests"][file]:
            raise ValueError(f"{folder / file} is cut, changed or missing. {REPAIR}")
    _refuse_missing(folder, head)
    return head, [json.loads(line) for line in (folder / INDEX).read_text("utf-8").splitlines()]


def _refuse_missing(folder: Path, head: Mapping[str, Any]) -> None:
    """Every shard must be there at its full length."""
    files = {
        folder / kind / shard["file"]: shard["bytes"]
        for kind, shards in head["shards"].items()
        for shard in shards
    }
    wrong = [f for f, size in files.items() if not f.is_file() or f.stat().st_size != size]
    wrong += [folder / NULL] if head["text"] and not (folder / NULL).is_file() else []
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{wrong[0]}{more} is missing or cut. {REPAIR}")


def _refuse_constant_channel(folder: Path, std: Iterable[float]) -> None:
    for channel, value in enumerate(std):
        if not value > 0:
            raise ValueError(
                f"channel {channel} of the latents in {folder} never changes, so it can't be "
                "normalised. Are all pictures alike?"
            )


def _mapped(folder: Path, head: Mapping[str, Any], kind: str, *keys: str) -> list[dict]:
    """The tensors of all shards of a kind: a mapped file can be read after it was deleted.

    So `pathline preprocess` may write the cache again while a training reads it. A shard costs half
    a millisecond, whatever it holds.
    """
    tables = []
    for shard in head["shards"][kind]:
        file = folder / kind / shard["file"]
        try:
            tables.append(tensors(file, *keys))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} can't be read: {error}. {REPAIR}") from None
    return tables


def _value_reader(
    folder: Path, head: Mapping[str, Any], lines: Sequence[Line], buckets: Tensor, kind: str
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The function that reads latents, or features."""
    tables = _mapped(folder, head, kind, VALUES, MIRRORED)
    places = np.array([line[kind] for line in lines], np.int64).reshape(-1, 2)

    def read_values(
        rows: Int64[Tensor, " n"], flips: Bool[Tensor, " n"] | None
    ) -> Float[Tensor, "n c h w"]:
        """Values of rows that are in one bucket. Raises ValueError for rows of several."""
        if len(kinds := buckets[rows].unique()) != 1:
            raise ValueError(f"rows of {len(kinds)} buckets can't be stacked; take those of one")
        if flips is not None and flips.any() and not head["flip"]:
            raise ValueError(
                f"{folder} holds no mirror images, and mirrored latents are not those of the "
                "mirrored picture. Take data.flip=false, or preprocess with data.flip=true."
            )
        # One gather for each shard and side, into one tensor in the order of `rows`.
        shards, positions = places[rows.numpy()].T
        is_mirrored = torch.zeros(len(rows), dtype=torch.bool) if flips is None else flips.cpu()
        # Allocated at the first part, which shows the shape of this bucket.
        values = None
        for number in np.unique(shards):
            is_inside = torch.from_numpy(shards == number)
            for key, mask in (
                (VALUES, is_inside & ~is_mirrored),
                (MIRRORED, is_inside & is_mirrored),
            ):
                if mask.any():
                    places_of = torch.from_numpy(positions)[mask]
                    # Only these rows are read from the mapped file; converted after that.
                    part = tables[number][key].index_select(0, places_of).float()
                    values = (
                        part.new_empty(len(rows), *part.shape[1:]) if values is None else values
                    )
                    values[mask] = part
        assert values is not None
        return values

    return read_values


def _cond_reader(
    folder: Path, head: Mapping[str, Any], lines: Sequence[Line], null: Row
) -> Callable[[Tensor, Tensor], Cond]:
    """The function that reads conditions."""
    tables = _mapped(folder, head, TEXT)

    def read_cond(rows: Int64[Tensor, " n"], choice: Float[Tensor, " n"]) -> Cond:
        """One of each row's captions by its weight; the null condition for a row without any."""
        if not head["text"]:
            return Cond()
        of_rows = [lines[number] for number in rows.tolist()]
        numbers = choose(choice, [line["weights"] for line in of_rows]).tolist()
        states = []
        # Shard and position of the caption that was chosen; −1 is a row without any.
        for line, number in zip(of_rows, numbers, strict=True):
            shard, position = line[TEXT][number] if number >= 0 else (0, 0)
            states.append(unpack(tables[shard], position) if number >= 0 else null)
        return pad_states(states)

    return read_cond
