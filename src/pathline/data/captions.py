"""Captions as data: kept beside human ones with what made them, and which one a picture takes.

A record of metadata.jsonl is {file_name, text, captions, provenance}. `text` is the first caption,
and a person's where there is one; `captions` are further ones, and `provenance` says of each of
them what made it, null for a person's.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pathline.data.sources.folder import tidy
from pathline.files import write_whole

Record = dict[str, Any]
MAKER = ("model", "revision", "template", "template_digest", "settings")


class Made(NamedTuple):
    """What a model said of a picture."""

    captions: tuple[str, ...]
    provenance: Mapping[str, Any]  # MAKER's, and picture: its digest, date, attempt, answer


def choose(
    uniform: Float[Tensor, " n"], weights: Sequence[Sequence[int | float]]
) -> Int64[Tensor, " n"]:
    """The number of the caption that each row takes, by its weights; −1 for a row without any.

    uniform: in [0, 1). weights: of any sum. Raises ValueError for others.
    """
    if len(uniform) != len(weights):
        raise ValueError(f"{len(uniform)} numbers came with the weights of {len(weights)} rows")
    most = max(map(len, weights), default=0)
    rows = [[*row, *[0] * (most - len(row))] for row in weights]
    table = torch.tensor(rows, dtype=torch.float64).view(len(rows), most)
    sums = table.cumsum(1)
    total = sums[:, -1:] if most else table.sum(1, keepdim=True)
    given = torch.tensor([len(row) > 0 for row in weights], dtype=torch.bool)
    fair = (table >= 0).all(1) & total.isfinite().squeeze(1) & ((total > 0).squeeze(1) | ~given)
    wrong = ~(fair & (uniform >= 0) & (uniform < 1))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} has the weights {tuple(weights[row])} and the number {uniform[row]:g}: "
            "wanted weights of at least 0, not all 0, and a number in [0, 1)"
        )
    place = (sums <= uniform[:, None] * total).sum(1)
    last = (sums < total).sum(1)  # rounding must not lead past it, nor to a weight of 0
    return torch.where(given, torch.minimum(place, last), -1)


def shared(weights: Sequence[float], of: Sequence[int]) -> list[float]:
    """The weight of each arrangement: its caption's, shared among all of that caption.

    weights: of a picture's first, second, … caption, the last one for all further. of: the number
    of the caption that each arranges.
    """
    counts = Counter(of)
    return [weights[min(number, len(weights) - 1)] / counts[number] for number in of]


def refuse_missing_captions(captions: Mapping[str, Sequence[str] | str | None]) -> None:
    """Raise ValueError where a picture has no caption. captions: by the key of the picture."""
    missing = [key for key, texts in captions.items() if not texts]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(captions)} pictures have no caption, the first {missing[0]}. "
            "Caption them, or train them unconditionally with data.missing_captions=null."
        )


def digest(content: bytes) -> str:
    """By which a changed picture is noticed."""
    return hashlib.sha256(content).hexdigest()[:16]


def is_done(
    record: Record,
    maker: Mapping[str, Any],
    picture: Callable[[], str],
    *,
    alone: str | None = None,
) -> bool:
    """Whether a record has what this maker says of this very picture.

    picture: the digest. alone: the field of the first caption, where nothing else may be there.
    """
    own = [said for _, said in pairs_of(record) if said and _same(said, maker)]
    if alone is not None:
        first = tidy(record.get(alone)) in by_models(record)
        own = own if first and len(own) == len(record["captions"]) else []
    return bool(own) and all(said.get("picture") == picture() for said in own)


def added(
    record: Record, made: Made, *, field: str = "text", human: bool = False, replace: bool = False
) -> Record:
    """The record with the captions that were made.

    What was made of another state of the picture, or by the same maker before, is left out; what a
    person wrote stays first, unless `replace`. human: a side-car has a person's caption.
    """
    pairs = pairs_of(record)
    kept = [] if replace else [pair for pair in pairs if not _stale(pair[1], made.provenance)]
    kept += [(caption, dict(made.provenance)) for caption in made.captions]
    first = tidy(record.get(field))
    if replace or first in by_models(record):
        first = None
    if first is None and (replace or not human):
        first = kept[0][0]
    found = {k: v for k, v in record.items() if k not in (field, "captions", "provenance")}
    found |= {field: first} if first else {}
    return found | {"captions": [c for c, _ in kept], "provenance": [p for _, p in kept]}


def pairs_of(record: Record) -> list[tuple[str, Mapping[str, Any] | None]]:
    """The captions of a record's list, each with what made it."""
    captions, said = list(record.get("captions") or ()), list(record.get("provenance") or ())
    return list(zip(captions, said + [None] * (len(captions) - len(said)), strict=False))


def by_models(record: Record) -> set[str | None]:
    """Those of a record's captions that no person wrote."""
    return {tidy(caption) for caption, said in pairs_of(record) if said is not None}


def _stale(said: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    return said is not None and (said.get("picture") != now["picture"] or _same(said, now))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in MAKER)


def _line(record: Record) -> str:
    """As a person reads it, and in ASCII where a name or word is no UTF-8."""
    text = json.dumps(record, ensure_ascii=False)
    return (json.dumps(record) if re.search("[\ud800-\udfff]", text) else text) + "\n"


def append(file: Path, records: Iterable[Record]) -> None:
    """Whole lines at the end of a file, on disk when this returns."""
    lines = "".join(_line(record) for record in records)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as out:
        if out.tell() and not _ends_whole(file):
            lines = "\n" + lines  # a kill cut the last line; the next must not grow into it
        out.write(lines.encode())
        out.flush()
        os.fsync(out.fileno())


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as found:
        found.seek(-1, os.SEEK_END)
        return found.read(1) == b"\n"


def journal(file: Path) -> Iterator[Record]:
    """The lines that `append` wrote; one that a kill cut short is passed by, and made anew."""
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


def write(file: Path, records: Iterable[Record]) -> None:
    """Write the whole file, or none of it."""
    write_whole(file, "".join(map(_line, records)))
