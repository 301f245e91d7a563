"""Records of captions, and the files they are in: metadata.jsonl, and journals of what is new.

A record of metadata.jsonl is {file_name, text, captions, provenance}. `text` is the first caption,
a person's where there is one; `captions` are further ones; `provenance` has for each of them the
model and settings that made it, null for a person's. A journal's line is such a record too:
{key, date, captions, provenance}, or {key, date, reason} of an image without a caption.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pathline.data.sources.items import tidy
from pathline.files import digest, write_whole

Record = dict[str, Any]
MAKER = ("model", "revision", "template", "template_digest", "settings")  # of a provenance


def digest_image(content: bytes) -> str:
    """16 hex digits by which a changed image is noticed."""
    return digest(content)[:16]


def is_captioned(
    record: Record,
    maker: Mapping[str, Any],
    image_digest: Callable[[], str],
    *,
    alone: str | None = None,
) -> bool:
    """Whether a record has captions of this maker for the image as it is now.

    alone: name of the field of the first caption, where no other caption may be in the record.
    """
    pairs = caption_pairs(record)
    by_maker = [source for _, source in pairs if source and _is_same_maker(source, maker)]
    if alone is not None:
        is_alone = len(by_maker) == len(pairs) and tidy(record.get(alone)) in model_captions(record)
        by_maker = by_maker if is_alone else []
    return bool(by_maker) and all(source.get("picture") == image_digest() for source in by_maker)


def add_captions(
    record: Record,
    line: Record,
    *,
    field: str = "text",
    has_human: bool = False,
    replace: bool = False,
) -> Record:
    """The record with the captions of a journal's line.

    Captions of an older state of the image, or by the same maker, are left out; what a person
    wrote stays first, unless `replace`. has_human: a side-car has a person's caption.
    """
    new = caption_pairs(line)
    pairs = [] if replace else [p for p in caption_pairs(record) if not _is_stale(p[1], new[0][1])]
    pairs += [(caption, dict(source or {})) for caption, source in new]
    first = tidy(record.get(field))
    # A model's caption in the first place may be replaced, a person's may not.
    if replace or first in model_captions(record):
        first = None
    if first is None and (replace or not has_human):
        first = pairs[0][0]
    rest = {k: v for k, v in record.items() if k not in (field, "captions", "provenance")}
    rest |= {field: first} if first else {}
    return rest | {"captions": [c for c, _ in pairs], "provenance": [p for _, p in pairs]}


def caption_pairs(record: Record) -> list[tuple[str, Mapping[str, Any] | None]]:
    """The captions of a record's list, each with its provenance."""
    captions, sources = list(record.get("captions") or ()), list(record.get("provenance") or ())
    return list(zip(captions, sources + [None] * (len(captions) - len(sources)), strict=False))


def model_captions(record: Record) -> set[str | None]:
    """Those of a record's captions that no person wrote."""
    return {tidy(caption) for caption, source in caption_pairs(record) if source is not None}


def _is_stale(source: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    if source is None or new is None:
        return False
    return source.get("picture") != new["picture"] or _is_same_maker(source, new)


def _is_same_maker(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first.get(name) == second.get(name) for name in MAKER)


def append_lines(file: Path, records: Iterable[Record]) -> None:
    """Whole lines at the end of a journal, on disk when this returns."""
    lines = "".join(map(_encode, records))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as journal:
        size = journal.seek(0, os.SEEK_END)
        journal.seek(max(0, size - 1))
        if size and journal.read(1) != b"\n":
            lines = "\n" + lines  # a kill cut the last line short; the next must not join it
        journal.write(lines.encode())
        journal.flush()
        os.fsync(journal.fileno())


def read_lines(file: Path) -> Iterator[Record]:
    """A journal's lines; one that a kill cut short is left out, and its image captioned again."""
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def write_records(file: Path, records: Iterable[Record]) -> None:
    """The whole file, or none of it."""
    write_whole(file, "".join(map(_encode, records)))


def _encode(record: Record) -> str:
    """One line of JSON, readable; in ASCII where a name or caption is no valid UTF-8."""
    text = json.dumps(record, ensure_ascii=False)
    return (json.dumps(record) if re.search("[\ud800-\udfff]", text) else text) + "\n"
