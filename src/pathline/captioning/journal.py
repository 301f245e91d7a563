"""A folder that is being captioned: its pictures, new captions and metadata.jsonl."""

import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from pathline.captioning.records import (
    Record,
    add_captions,
    digest_image,
    is_captioned,
    model_captions,
    read_lines,
    write_records,
)
from pathline.data.sources.collection import columns_of, is_classes
from pathline.data.sources.folder import splits_of
from pathline.data.sources.items import TEXTS, several
from pathline.data.sources.listing import is_picture, walk
from pathline.data.sources.metadata import METADATA, NAMES, is_metadata, records
from pathline.files import decode_text, write_whole

FAULTS = "caption-faults.jsonl"


class Picture(NamedTuple):
    """An image file, and the metadata file that has or will have its record."""

    path: Path
    key: str  # its path below the folder
    metadata: Path
    name: str  # file_name in the record
    record: Record  # as it was when the folder was read
    label: str | None


class Collection(NamedTuple):
    """A folder's pictures and where their captions go."""

    pictures: list[Picture]
    field: str  # of a record, with the first caption
    journals: Path  # folder of the journals, one of each process
    faults: Path  # list of the pictures without a caption


class Summary(NamedTuple):
    """What the journals had."""

    captions: dict[str, tuple[str, ...]]  # key -> its newest captions
    faults: list[Record]
    side_cars: int  # written


def open_collection(root: Path, out: Path | None = None) -> Collection:
    """The pictures below a folder. A new record goes to metadata.jsonl of the folder or split.

    out: one other file for all records instead, with names from `root`; its records are kept.
    """
    files = list(walk(root))
    places = _find_records(file for file in files if is_metadata(file))
    fields, _ = columns_of([record for _, record in places.values()], str(root))
    if out is not None and out.resolve() == (root / METADATA).resolve():
        out = None
    previous = {r["file_name"]: r for r in records(out)} if out and out.is_file() else {}
    # Every image with the metadata file and record that its captions go to.
    pictures = []
    for base in splits_of(root).values() or [root]:
        paths = [path for path in files if is_picture(path) and path.is_relative_to(base)]
        has_classes = is_classes([_folder_of(path, base) for path in paths])
        for path in paths:
            key = path.relative_to(root).as_posix()
            metadata, record = places.get(path, (base / METADATA, {}))
            label = record.get(fields.label or "", path.parent.name if has_classes else None)
            if (
                metadata.suffix.lower() != ".jsonl"
            ):  # records of a CSV continue in a file next to it
                metadata = metadata.with_name(METADATA)
            # One file for all: names from the root, and what the file has already.
            if out:
                metadata, name, record = out, key, previous.get(key, record)
            else:
                name = path.relative_to(metadata.parent).as_posix()
            label = label if isinstance(label, str) else None
            record = {**record, "file_name": name}
            pictures.append(Picture(path, key, metadata, name, record, label))
    if not pictures:
        raise ValueError(f"{root} has no picture. Put .png, .jpg, .webp … in it or below.")
    home, stem = (out.parent, f".{out.stem}") if out else (root, ".metadata")
    return Collection(pictures, fields.caption or "text", home / f"{stem}-parts", home / FAULTS)


def _folder_of(path: Path, base: Path) -> str:
    """A picture's folder below the base; "" for the base itself."""
    return "" if path.parent == base else path.parent.relative_to(base).as_posix()


def _find_records(files: Iterable[Path]) -> dict[Path, tuple[Path, Record]]:
    """Picture -> (metadata file, its first record there)."""
    places: dict[Path, tuple[Path, Record]] = {}
    for file in sorted(files, key=lambda file: NAMES.index(file.name.lower())):
        for record in records(file):
            places.setdefault(file.parent / record["file_name"], (file, record))
    return places


def find_uncaptioned(
    collection: Collection, maker: Mapping[str, Any], *, replace: bool = False
) -> list[Picture]:
    """Pictures that this maker has not captioned as they are now, by record or by journal."""
    lines = {line["key"]: line for line in _read_journals(collection) if "captions" in line}
    alone = collection.field if replace else None

    def is_done(picture: Picture) -> bool:
        image_digest = cache(lambda: digest_image(picture.path.read_bytes()))
        in_journal = is_captioned(lines.get(picture.key, {}), maker, image_digest)
        return in_journal or is_captioned(picture.record, maker, image_digest, alone=alone)

    return [picture for picture in collection.pictures if not is_done(picture)]


def _read_journals(collection: Collection) -> list[Record]:
    """The lines of this command's processes and of killed ones, the oldest first."""
    files = sorted(collection.journals.glob("*.jsonl"))
    return sorted((line for file in files for line in read_lines(file)), key=lambda x: x["date"])


def merge_journals(
    collection: Collection, *, replace: bool = False, side_cars: bool = False
) -> Summary:
    """Make the journals into records, side-cars and the list of faults.

    Every file is read again, changed and replaced as a whole, and the journals are deleted last,
    so that a kill at any moment loses nothing.
    """
    lines: dict[str, list[Record]] = {}
    faults: dict[str, Record] = {}
    for line in _read_journals(collection):
        # Later lines count: a caption clears the fault of an earlier attempt.
        faults.pop(line["key"], None)
        if "captions" in line:
            lines.setdefault(line["key"], []).append(line)
        else:
            faults[line["key"]] = line

    # One metadata file after another, each written whole.
    written, options = 0, {"field": collection.field, "replace": replace, "side_cars": side_cars}
    changed = {p.metadata for p in collection.pictures if side_cars or p.key in lines}
    for metadata in sorted(changed):
        pictures = [picture for picture in collection.pictures if picture.metadata == metadata]
        written += _update(metadata, pictures, lines, **options)

    if faults:
        write_records(collection.faults, faults.values())
    else:
        collection.faults.unlink(missing_ok=True)
    shutil.rmtree(collection.journals, ignore_errors=True)
    captions = {key: tuple(several_lines[-1]["captions"]) for key, several_lines in lines.items()}
    return Summary(captions, list(faults.values()), written)


def _update(
    metadata: Path,
    pictures: list[Picture],
    lines: Mapping[str, list[Record]],
    *,
    field: str,
    replace: bool,
    side_cars: bool,
) -> int:
    """A metadata file with the new captions; returns how many side-cars were written."""
    before = list(records(metadata)) if metadata.is_file() else []
    updated, written = list(before), 0
    # The first record of a file name counts, as when reading.
    rows = {record["file_name"]: row for row, record in reversed(list(enumerate(before)))}
    for picture in pictures:
        new = lines.get(picture.key, [])
        if picture.name not in rows and (new or len(picture.record) > 1):
            rows[picture.name] = len(updated)
            updated.append(picture.record)
        if picture.name not in rows:
            continue
        row = rows[picture.name]
        # A side-car that holds a person's words is replaced only where `replace` is set.
        texts = _read_side_car(picture.path)
        human = tuple(text for text in texts if text not in model_captions(updated[row]))
        updated[row] = _add_lines(updated[row], new, field, bool(human), replace)
        first = () if replace and new else human
        captions = several(updated[row].get(field), first, updated[row].get("captions"))
        if side_cars or len(human) < len(texts):  # one with a model's captions is ours
            written += _write_side_car(picture.path, captions)
    if updated != before:
        write_records(metadata, updated)
    return written


def _add_lines(
    record: Record, lines: list[Record], field: str, has_human: bool, replace: bool
) -> Record:
    for number, line in enumerate(lines):
        is_first = replace and not number
        record = add_captions(record, line, field=field, has_human=has_human, replace=is_first)
    return record


def _read_side_car(path: Path) -> tuple[str, ...]:
    """The captions in the side-car of a picture, one a line."""
    suffixes = [suffix for lower in TEXTS for suffix in (lower, lower.upper())]
    for stem in (path.name, path.stem):
        files = (path.with_name(f"{stem}.{suffix}") for suffix in suffixes)
        for file in filter(Path.is_file, files):
            if texts := several(decode_text(file.read_bytes(), file).splitlines()):
                return texts
    return ()


def _write_side_car(path: Path, captions: tuple[str, ...]) -> bool:
    """The captions next to a picture, one a line; whether there was anything to write."""
    full, shared = path.with_name(f"{path.name}.txt"), path.with_suffix(".txt")
    same_stem = [file for file in path.parent.glob(f"{escape(path.stem)}.*") if is_picture(file)]
    file = full if full.is_file() or len(same_stem) > 1 else shared
    text = "".join(f"{caption}\n" for caption in captions)
    if not text or (file.is_file() and decode_text(file.read_bytes(), file) == text):
        return False
    write_whole(file, text)
    return True
