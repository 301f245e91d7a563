"""The pictures among the files of a folder or tar, each with all that is written about it."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pathline.data.sources.columns import number_of
from pathline.data.sources.listing import is_picture, suffix_of
from pathline.data.sources.metadata import NAMES, Record, is_metadata, lines_of
from pathline.files import decode_text

TEXTS = ("txt", "caption", "captions")  # suffixes of side-cars, in the order they are taken
UNUSED_METADATA = "metadata of pictures that another metadata file names"
UNUSED_TEXTS = "side-cars of pictures that have captions from elsewhere"
Reasons = dict[str, list[str]]  # why files are left out -> their names


class Files(NamedTuple):
    """Files by name: of a folder, or of a tar."""

    where: str  # in sentences
    names: list[str]
    read: Callable[[str], bytes]
    encoded: Callable[[str], bytes | Path]  # a picture's bytes, or its file
    dotted: bool = False  # of webdataset: a sample's name ends at its first dot
    inside: str = ""  # pictures whose names do not begin so are of another split


class Item(NamedTuple):
    """A picture, and what is written about it."""

    files: Files
    name: str
    record: Record  # of a metadata file
    texts: tuple[str, ...] = ()  # captions of its side-car
    side_car: str = ""  # the file they came from
    fields: Record = {}  # noqa: RUF012 - of its side-car in JSON, as json.name
    label: Any = None  # of its .cls


class Items(NamedTuple):
    """The pictures of a folder or tar, and its other files."""

    items: list[Item]
    used: set[str]  # suffixes of side-cars and names of metadata files that captions came from
    left_out: Reasons
    unused: list[str]  # files that nothing reads
    problems: list[str]


def collect(files: Files, image: str | None = None) -> Items:
    """All pictures of these files. image: the only suffix that counts, of several in a sample."""
    result = Items([], set(), {}, [], [])
    lines, metadata_files = _metadata(files, result)
    pictures = _pictures(files, image, result.left_out)
    beside = Beside(files, result)
    # A row for each metadata line and for each picture that no line names.
    for name, records in lines.items():
        result.items.extend(_item(name, record, beside) for record in records)
    result.items.extend(_item(name, {}, beside) for name in pictures if name not in lines)
    order = {name: number for number, name in enumerate(files.names)}
    result.items.sort(key=lambda item: order.get(item.name, len(order)))
    # What nothing has read.
    rest = set(files.names) - set(pictures) - set(lines) - metadata_files - beside.taken
    rest -= {name for names in result.left_out.values() for name in names}
    result.unused.extend(sorted(rest))
    return result


def stems(name: str, dotted: bool) -> list[str]:
    """The names, without suffix, that a picture's side-cars may have, nearest first."""
    path = PurePosixPath(name)
    nearest = [name, str(path.with_suffix(""))]
    return [*nearest, first_part(name)] if dotted else nearest


def first_part(name: str) -> str:
    """A file's name up to the first dot in it, as webdataset calls a sample."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last[:1] + last[1:].partition(".")[0]


def ending(name: str) -> str:
    """A file's name from the first dot in it on, without that dot, in lower case."""
    return name[len(first_part(name)) + 1 :].lower()


def tidy(text: Any) -> str | None:
    """A caption on one line, half characters as "?"; None for an empty one and for NaN."""
    if text is None or text != text:
        return None
    if isinstance(text, float) and text.is_integer():
        text = int(text)  # pandas makes 2024 a float where another row is empty
    plain = str(text).removeprefix("\ufeff").encode("utf-8", "replace").decode()
    return " ".join(plain.split()) or None


def several(*texts: Any) -> tuple[str, ...]:
    """Captions, each tidy and once; a list among them is taken apart, None and "" are none."""
    flat = [part for text in texts for part in (text if isinstance(text, list | tuple) else [text])]
    return tuple(dict.fromkeys(line for part in flat if (line := tidy(part))))


def _pictures(files: Files, image: str | None, left_out: Reasons) -> list[str]:
    """Names of the pictures; of a sample in a tar only one counts, the others have longer names."""
    pictures = [name for name in files.names if is_picture(name)]
    if not files.dotted:
        return pictures
    plain = {first_part(name) for name in pictures if "." not in ending(name)}
    chosen, others = [], []
    for name in pictures:
        suffix = ending(name)
        fits = suffix == image.lower() if image else "." not in suffix
        is_further = not fits and (image or first_part(name) in plain)
        (others if is_further else chosen).append(name)
    if others:
        left_out["further pictures of a sample (data.source.image=SUFFIX chooses)"] = others
    return chosen


def _side_cars(files: Files) -> dict[str, list[str]]:
    """Name without suffix -> the side-cars of that name, in the order they are taken."""
    order = {suffix: number for number, suffix in enumerate((*TEXTS, "json", "cls"))}
    by_stem: dict[str, list[str]] = {}
    for name in files.names:
        if suffix_of(name) in order:
            by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    for names in by_stem.values():
        names.sort(key=lambda name: order[suffix_of(name)])
    return by_stem


def _metadata(files: Files, result: Items) -> tuple[dict[str, list[Record]], set[str]]:
    """Picture -> its records, in the order of the lines; and the metadata files.

    Where two files of metadata name one picture, the one that comes first in NAMES counts.
    """
    sources = [name for name in files.names if is_metadata(PurePosixPath(name))]
    sources.sort(key=lambda name: (NAMES.index(PurePosixPath(name).name.lower()), name))
    present = set(files.names)
    lines: dict[str, list[Record]] = {}
    for source in sources:
        own: dict[str, list[Record]] = {}
        where = f"{files.where}/{source}"
        for record, _, problem in lines_of(source, files.read(source), where):
            if problem:
                result.problems.append(problem)
                continue
            name = _path_of(record["file_name"], PurePosixPath(source).parent, present)
            own.setdefault(name, []).append(record)
        if own.keys() & lines.keys():
            result.left_out.setdefault(UNUSED_METADATA, []).append(source)
        lines = own | lines
    return {n: r for n, r in lines.items() if n.startswith(files.inside)}, set(sources)


def _path_of(file_name: str, folder: PurePosixPath, present: set[str]) -> str:
    """The picture that a record names; Windows writes folders with a backslash."""
    name = str(folder / file_name)
    windows = str(folder / file_name.replace("\\", "/"))
    return windows if name not in present and windows in present else name


def _item(name: str, record: Record, beside: "Beside") -> Item:
    """A picture with its side-cars: the first text that holds a caption, its JSON, its class."""
    texts, text_file, fields, label = (), "", {}, None
    for side_car in beside.of(name):
        suffix = suffix_of(side_car)
        content = beside.read(side_car)
        if suffix == "cls":
            label = number_of(content)
        elif suffix == "json":
            fields = fields or beside.fields(side_car, content)
        elif not texts:
            texts, text_file = several(content.splitlines()), side_car
            beside.result.used.update([f".{suffix}"] if texts else [])
        elif set(several(content.splitlines())) - set(texts):
            beside.result.left_out.setdefault(UNUSED_TEXTS, []).append(side_car)
    return Item(beside.files, name, record, texts, text_file, fields, label)


class Beside:
    """The side-cars of a folder's pictures. Those with an error are read as empty, and listed."""

    def __init__(self, files: Files, result: Items) -> None:
        self.files, self.result = files, result
        self.taken = set[str]()
        self._by_stem = _side_cars(files)
        self._contents: dict[str, str] = {}

    def of(self, name: str) -> list[str]:
        """The side-cars of a picture: all of its own name, else those that its stem shares."""
        groups = (self._by_stem.get(stem, []) for stem in stems(name, self.files.dotted))
        nearest = next((group for group in groups if group), [])
        self.taken.update(nearest)
        return nearest

    def read(self, name: str) -> str:
        """The text of a side-car; several pictures may share one."""
        if name not in self._contents:
            try:
                text = decode_text(self.files.read(name), f"{self.files.where}/{name}")
            except (ValueError, OSError) as fault:
                self.result.problems.append(str(fault))
                text = ""
            self._contents[name] = text
        return self._contents[name]

    def fields(self, name: str, content: str) -> Record:
        """The fields of a side-car in JSON, as json.name."""
        try:
            record = json.loads(content) if content.strip() else {}
        except (ValueError, RecursionError) as fault:
            self.result.problems.append(f"{self.files.where}/{name} is no JSON: {fault}.")
            record = {}
        if not isinstance(record, dict):
            self.taken.discard(name)  # it holds something else, boxes for example
            return {}
        return {f"json.{key}": value for key, value in record.items()}
