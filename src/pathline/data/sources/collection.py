"""A source from the pictures of folders and tars: their captions, classes and repeats."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pathline.data.faults import refuse
from pathline.data.sources.columns import (
    CHOOSE,
    LABELS,
    SEVERAL,
    Columns,
    choose,
    class_rows,
    kind_of,
    named,
    unused,
)
from pathline.data.sources.items import UNUSED_TEXTS, Item, Items, Reasons, several
from pathline.data.sources.listing import sentences, shown
from pathline.data.sources.metadata import METADATA
from pathline.data.sources.source import UNDECODED, Source
from pathline.data.transforms import decode
from pathline.types import Example

Folders = Literal["auto", "classes", "repeats", "none"]
REPEATED = re.compile(r"([1-9]\d*)_(.+)")  # a folder as kohya's trainers name it: repeats, name
Table = list[dict[str, Any]]


class Asked(NamedTuple):
    """Columns by name, and what sub-folders mean; None and "auto" where they are found out."""

    caption: str | None = None
    label: str | None = None
    folders: Folders = "auto"


NOTHING = Asked()


class Entry(NamedTuple):
    """One picture: its captions in order of preference, its label, how often an epoch has it."""

    item: Item
    key: str
    captions: tuple[str, ...]
    label: Any = None
    repeats: int = 1


def source_of(
    parts: Sequence[Items], where: str, asked: Asked, key: Callable[[str], str]
) -> Source:
    """A source of all parts, in their order.

    key: a picture's stable name by its file name. Raises ValueError that lists all problems.
    """
    items = [item for part in parts for item in part.items]
    left_out, rest, problems = _merged(parts)
    if not items:
        content = "; ".join(sentences(left_out, rest)) or "nothing: it is empty"
        problems.append(
            f"{where} holds no picture, such as .png, .jpg or .webp. It holds {content}."
        )
        refuse(problems, where)
    notes: list[str] = []
    try:
        entries = _with_captions(items, where, asked, key, notes, left_out)
        entries, names = _with_labels(entries, where, asked, notes)
    except ValueError as fault:
        refuse([*problems, str(fault)], where)
        raise
    refuse(problems, where)
    used = sorted({name for part in parts for name in part.used})
    notes = [
        *([f"captions from side-cars: {', '.join(used)}"] if used else []),
        *notes,
        *(f"left out, {text}" for text in sentences(left_out, rest)),
    ]
    return _source(_numbered(entries), names, tuple(notes))


def _merged(parts: Sequence[Items]) -> tuple[Reasons, list[str], list[str]]:
    """What is left out, what nothing reads, and all problems."""
    left_out: Reasons = {}
    for part in parts:
        for reason, names in part.left_out.items():
            left_out.setdefault(reason, []).extend(names)
    rest = [name for part in parts for name in part.unused]
    return left_out, rest, [problem for part in parts for problem in part.problems]


def kinds_of(records: Table) -> dict[str, str]:
    """What the columns of records hold, from all rows."""
    columns: dict[str, list[Any]] = {}
    for record in records:
        for key, value in record.items():
            if key != "file_name":
                columns.setdefault(key, []).append(value)
    kinds = {key: kind_of(values) for key, values in columns.items()}
    return {key: kind for key, kind in kinds.items() if kind}


def columns_of(records: Table, where: str, asked: Asked = NOTHING) -> tuple[Columns, list[str]]:
    """Columns of captions and labels, and those that might hold some and are not used."""
    kinds = {"file_name": "image", **kinds_of(records)}
    columns = _choose(kinds, where, asked)
    return columns, unused(kinds, columns)


def _choose(kinds: dict[str, str], where: str, asked: Asked) -> Columns:
    picture = {"image": "file_name", "caption": asked.caption, "label": asked.label}
    return choose(kinds, where=where, **picture)


def _with_captions(
    items: Sequence[Item],
    where: str,
    asked: Asked,
    key: Callable[[str], str],
    notes: list[str],
    left_out: Reasons,
) -> list[Entry]:
    """Every picture with its captions: of metadata, else of its side-car, else of its JSON.

    A column that is asked for goes first, wherever it is.
    """
    records, fields = [item.record for item in items], [item.fields for item in items]
    in_json = [name for name in asked[:2] if name and name.startswith("json.")]
    if not any(records) and (asked.caption or asked.label) and not any(fields):
        raise ValueError(f"caption= and label= name fields of {METADATA}, but {where} has none")
    caption, label = asked[:2]
    of_metadata = Asked(
        None if caption in in_json else caption, None if label in in_json else label
    )
    columns, spare = columns_of(records, f"{METADATA} of {where}", of_metadata)
    has_texts = any(item.texts for item in items) or bool(columns.captions)
    # Beside other captions only the lists of JSON count, which follow them.
    kinds = kinds_of(fields)
    is_chosen = asked.caption in in_json or not has_texts
    names = set(kinds) if is_chosen else {asked.label, *named([*kinds], (*SEVERAL, *LABELS))}
    of_json = Asked(caption if caption in in_json else None, label if label in in_json else None)
    of_fields = {"file_name": "image"} | {n: kind for n, kind in kinds.items() if n in names}
    json_columns = _choose(of_fields, f"JSON beside pictures of {where}", of_json)
    spare += unused(kinds, json_columns)
    if spare:
        listed = ", ".join(spare)
        notes.append(f"columns not used: {listed}; {CHOOSE}")
    if columns.captions or json_columns.captions:
        listed = ", ".join(columns.captions + json_columns.captions)
        notes.append(f"captions from column {listed}")
    return [_entry(item, key(item.name), (columns, json_columns), left_out) for item in items]


def _entry(item: Item, key: str, columns: tuple[Columns, Columns], left_out: Reasons) -> Entry:
    of_metadata, of_json = columns
    lists = [c for c in of_metadata.captions if c != of_metadata.caption]
    first = several(item.record.get(of_metadata.caption or ""))
    further = several(*(item.record.get(column) for column in lists))
    json_first = several(item.fields.get(of_json.caption or ""))
    json_texts = several(*(item.fields.get(column) for column in of_json.captions))
    if (json_first or first) and set(item.texts) - set(first + further):
        left_out.setdefault(UNUSED_TEXTS, []).append(item.side_car)
    captions = several(list(json_first or first or item.texts), list(further), list(json_texts))
    label = item.record.get(of_metadata.label or "")
    for other in (item.label, item.fields.get(of_json.label or "")):
        label = other if label is None else label
    return Entry(item, key, captions, label)


def _with_labels(
    entries: list[Entry], where: str, asked: Asked, notes: list[str]
) -> tuple[list[Entry], tuple[str, ...]]:
    """The entries with labels 0 … K − 1 and repeats, and the names of the classes.

    Labels of the metadata win over the names of sub-folders.
    """
    folders = _folders_of(entries)
    repeated = _repeats_of(set(folders), asked.folders)
    labels = [entry.label for entry in entries]
    if repeated:
        words = [repeated[folder][1] for folder in folders]
        notes.append(_note_on_repeats(repeated))
        entries = [
            entry._replace(repeats=repeated[folder][0])
            for entry, folder in zip(entries, folders, strict=True)
        ]
        has_captions = any(entry.captions for entry in entries)
        if has_captions or len(set(words)) == 1:  # as kohya's trainers caption what has no text
            entries = [
                entry._replace(captions=entry.captions or (word,))
                for entry, word in zip(entries, words, strict=True)
            ]
    else:
        words = folders
    has_labels = any(label is not None and label == label for label in labels)
    if not has_labels and is_classes(folders) and asked.folders != "none":
        labels = words if len(set(words)) > 1 else labels
        notes += [f"classes from sub-folders: {len(set(words))}"] if len(set(words)) > 1 else []
    elif not has_labels and len(set(folders)) > 1:
        notes.append("sub-folders are no classes: not every picture lies exactly one deep")
    rows, names = class_rows(labels, where)
    return [e._replace(label=row) for e, row in zip(entries, rows, strict=True)], names


def _folders_of(entries: Sequence[Entry]) -> list[str]:
    """The folder of each picture, without the folders that all of them are in; "" for none."""
    parents = [PurePosixPath(entry.key).parent.parts for entry in entries]
    depth = _common(parents) if entries[0].item.files.dotted else 0
    return ["/".join(parts[depth:]) for parts in parents]


def _common(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all paths begin with, at least one folder of a path left."""
    shortest = min(map(len, paths))
    same = (len({path[at] for path in paths}) == 1 for at in range(shortest))
    depth = next((at for at, is_same in enumerate(same) if not is_same), shortest)
    return depth


def is_classes(folders: Sequence[str]) -> bool:
    """Whether every picture lies exactly one folder deep, in at least two. folders: of each."""
    return len(set(folders)) > 1 and all(f and "/" not in f for f in folders)


def _repeats_of(folders: set[str], meaning: Folders) -> dict[str, tuple[int, str]]:
    """Folder -> repeats and name, where all are called REPEATS_name; {} where they are not.

    Folders that are merely numbered, 1_cats 2_dogs 3_birds, have no repeats.
    """
    matches = {folder: REPEATED.fullmatch(folder.rpartition("/")[2]) for folder in folders}
    is_named = all(matches.values())
    if meaning == "repeats" and not is_named:
        wrong = next(folder for folder, match in matches.items() if not match)
        raise ValueError(
            f"data.source.folders=repeats is wrong because {wrong or 'a picture beside them'!r} is "
            "not called REPEATS_name, such as 5_cats. Rename it, or leave folders out."
        )
    if meaning not in ("auto", "repeats") or not is_named:
        return {}
    split = {folder: (int(match[1]), match[2]) for folder, match in matches.items() if match}
    numbers = sorted(count for count, _ in split.values())
    is_numbered = len(split) > 1 and numbers == list(range(numbers[0], numbers[0] + len(split)))
    return {} if meaning == "auto" and is_numbered and numbers[0] == 1 else split


def _note_on_repeats(repeated: dict[str, tuple[int, str]]) -> str:
    listed = [f"{shown(name)} ×{count}" for count, name in sorted(set(repeated.values()))]
    return (
        f"folders called REPEATS_name, as for kohya's trainers: {', '.join(listed[:8])} an epoch; "
        "data.source.folders=classes takes them as plain names"
    )


def _numbered(entries: Sequence[Entry]) -> list[Entry]:
    """Keys made unique where several lines name one picture (several captions): `a.png#2`."""
    times: Counter[str] = Counter()
    numbered = []
    for entry in entries:
        times[entry.key] += 1
        again = times[entry.key]
        numbered.append(entry if again == 1 else entry._replace(key=f"{entry.key}#{again}"))
    return numbered


def _source(entries: Sequence[Entry], names: tuple[str, ...], notes: tuple[str, ...]) -> Source:
    def encoded(row: int) -> bytes | Path:
        item = entries[row].item
        return item.files.encoded(item.name)

    def about(row: int) -> Example:
        entry = entries[row]
        first = entry.captions[0] if entry.captions else None
        return Example(
            UNDECODED, first, entry.label, entry.key, entry.captions, repeats=entry.repeats
        )

    def read(row: int) -> Example:
        item = entries[row].item
        name = f"{item.files.where}/{item.name}"
        return about(row)._replace(image=decode(encoded(row), name=name))

    captioned = any(entry.captions for entry in entries)
    return Source(len(entries), read, names, captioned, encoded, about, notes, are_files=True)
