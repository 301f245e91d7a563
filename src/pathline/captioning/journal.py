"""A folder that is being captioned: what is to do, what was done, and metadata.jsonl made of it."""

import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from pathline.data.captions import Made, Record, added, by_models, digest, is_done, journal, write
from pathline.data.sources.folder import (
    METADATA,
    beside,
    fields_of,
    is_classes,
    is_picture,
    records,
    several,
    sidecar,
    splits_of,
    walk,
)
from pathline.files import write_whole

FAULTS = "caption-faults.jsonl"


class Task(NamedTuple):
    """A picture, and the file that holds or will hold its record."""

    path: Path
    key: str  # below the folder
    place: Path
    name: str  # file_name in the record
    record: Record  # as it was when the folder was read
    label: str | None


class Book(NamedTuple):
    """A folder's pictures and where their captions are kept."""

    tasks: list[Task]
    field: str  # of a record, with the first caption
    parts: Path  # folder of the journals, one a process
    faults: Path  # list of what could not be captioned


def opened(root: Path, out: Path | None = None) -> Book:
    """The pictures below a folder. A new record goes to metadata.jsonl of the folder or split.

    out: one other file for all records instead, named from `root`; it begins with those there are.
    """
    found = list(walk(root))
    kept = _kept(file for file in found if file.name == METADATA)
    fields = fields_of([record for _, record in kept.values()], str(root))
    own = out is None or out.resolve() == (root / METADATA).resolve()
    apart = None if own else out
    before = {r["file_name"]: r for r in records(apart)} if apart and apart.is_file() else {}
    tasks = []
    for base in splits_of(root).values() or [root]:
        paths = [path for path in found if is_picture(path) and path.is_relative_to(base)]
        classes = is_classes(base, paths)
        for path in paths:
            key = path.relative_to(root).as_posix()
            place, record = kept.get(path, (base / METADATA, {}))
            label = record.get(fields.label or "", path.parent.name if classes else None)
            name = path.relative_to(place.parent).as_posix()
            if apart:
                place, name, record = apart, key, before.get(key, record)
            known = label if isinstance(label, str) else None
            tasks.append(Task(path, key, place, name, {**record, "file_name": name}, known))
    if not tasks:
        raise ValueError(f"{root} holds no picture: wanted .png, .jpg, .webp … in it or below")
    home, parts = (apart.parent, f".{apart.stem}") if apart else (root, ".metadata")
    return Book(tasks, fields.caption or "text", home / f"{parts}-parts", home / FAULTS)


def _kept(files: Iterable[Path]) -> dict[Path, tuple[Path, Record]]:
    """picture -> (metadata file, its first record there)."""
    found: dict[Path, tuple[Path, Record]] = {}
    for file in files:
        for record in records(file):
            found.setdefault(file.parent / record["file_name"], (file, record))
    return found


def to_do(book: Book, maker: Mapping[str, Any], *, replace: bool = False) -> list[Task]:
    """Pictures that this maker has not captioned as they are now, by record or by journal."""
    written: dict[str, Record] = {}
    for line in _journals(book):
        if "captions" in line:
            written[line["key"]] = line

    def done(task: Task) -> bool:
        picture = cache(lambda: digest(task.path.read_bytes()))
        line = written.get(task.key)
        journaled = {**line, "provenance": [line["provenance"]]} if line else {}
        alone = book.field if replace else None
        return is_done(journaled, maker, picture) or is_done(
            task.record, maker, picture, alone=alone
        )

    return [task for task in book.tasks if not done(task)]


def _journals(book: Book) -> list[Record]:
    """What killed processes and this command's own have written, the oldest first."""
    lines = [line for file in sorted(book.parts.glob("*.jsonl")) for line in journal(file)]
    return sorted(lines, key=lambda line: line["date"])


class Outcome(NamedTuple):
    """What became of the journals."""

    captions: dict[str, tuple[str, ...]]  # key -> what was made last
    faults: list[Record]
    side_cars: int


def settle(book: Book, *, replace: bool = False, side_cars: bool = False) -> Outcome:
    """Journals become records, side-cars and the list of faults.

    Every file is read anew, changed and put in its place whole, and the journals go last, so that
    a kill at any moment loses nothing.
    """
    made: dict[str, list[Made]] = {}
    faults: dict[str, Record] = {}
    for line in _journals(book):
        faults.pop(line["key"], None)
        if "captions" in line:
            found = Made(tuple(line["captions"]), line["provenance"])
            made.setdefault(line["key"], []).append(found)
        else:
            faults[line["key"]] = line
    written = 0
    for place in sorted({t.place for t in book.tasks if side_cars or t.key in made}):
        here = [task for task in book.tasks if task.place == place]
        written += _write(place, here, made, book.field, replace, side_cars)
    if faults:
        write(book.faults, faults.values())
    else:
        book.faults.unlink(missing_ok=True)
    shutil.rmtree(book.parts, ignore_errors=True)
    said = {key: several_made[-1].captions for key, several_made in made.items()}
    return Outcome(said, list(faults.values()), written)


def _write(
    place: Path,
    tasks: list[Task],
    made: Mapping[str, list[Made]],
    field: str,
    replace: bool,
    side_cars: bool,
) -> int:
    """A metadata file with what was made; returns how many side-cars were written."""
    before = list(records(place)) if place.is_file() else []
    lines, written = list(before), 0
    there = {line["file_name"]: number for number, line in reversed(list(enumerate(before)))}
    for task in tasks:
        if task.name not in there and (task.key in made or len(task.record) > 1):
            there[task.name] = len(lines)
            lines.append(task.record)
        if task.name in there:
            number = there[task.name]
            old, new = lines[number], made.get(task.key, [])
            lines[number], captions, ours = _joined(task.path, old, new, field, replace)
            written += (side_cars or ours) and _side_car(task.path, captions)
    if lines != before:
        write(place, lines)
    return written


def _joined(
    path: Path, record: Record, made: list[Made], field: str, replace: bool
) -> tuple[Record, tuple[str, ...], bool]:
    """The record with what was made, all captions of the picture, whether its side-car is ours."""
    there = sidecar(path, set(filter(Path.is_file, beside(path))))
    human = tuple(line for line in there if line not in by_models(record))
    for number, one in enumerate(made):
        instead = replace and not number
        record = added(record, one, field=field, human=bool(human), replace=instead)
    first = () if replace and made else human
    captions = several(record.get(field), first, record.get("captions"))
    return record, captions, len(human) < len(there)


def _side_car(path: Path, captions: tuple[str, ...]) -> bool:
    """The captions beside a picture, one a line; whether there was anything to write."""
    own, shared = beside(path)
    alike = [file for file in path.parent.glob(f"{escape(path.stem)}.*") if is_picture(file)]
    file = own if own.is_file() or len(alike) > 1 else shared
    text = "".join(f"{caption}\n" for caption in captions)
    if not text or (file.is_file() and file.read_text("utf-8-sig") == text):
        return False
    write_whole(file, text)
    return True
