"""Metadata of pictures: records of metadata.jsonl, metadata.csv and metadata.parquet.

A record is a dict with `file_name`, the picture's path from the folder of the metadata file. Names
of files and columns may be written in capitals.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow.parquet import read_table

from pathline.data.sources.columns import LABELS, number_of
from pathline.files import decode_text

METADATA = "metadata.jsonl"  # the name that is written
NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # read, in this order
FILE_NAMES = ("file_name", "filename", "file")
DELIMITERS = (",", ";", "\t")
Record = dict[str, Any]


class Line(NamedTuple):
    """A line of a metadata file: a record, or a sentence on what is wrong with it."""

    record: Record
    place: str  # file and line, in words
    problem: str = ""


def is_metadata(path: PurePath) -> bool:
    """Whether a file's name is that of a metadata file."""
    return path.name.lower() in NAMES


def records(file: Path) -> Iterator[Record]:
    """The records of a metadata file; ValueError names file and line of a wrong one."""
    for line in lines_of(file.name, file.read_bytes(), str(file)):
        if line.problem:
            raise ValueError(line.problem)
        yield line.record


def lines_of(name: str, content: bytes, where: str) -> Iterator[Line]:
    """Every line of a metadata file. name: of the file. where: names it in a sentence."""
    readers: dict[str, Callable[[bytes, str], Iterable[Line]]] = {
        "jsonl": _jsonl,
        "csv": _csv,
        "parquet": _parquet,
    }
    try:
        for line in readers[name.lower().rpartition(".")[2]](content, where):
            yield line if line.problem else _checked(line)
    except ValueError as fault:  # of the whole file: its encoding, its header
        yield Line({}, where, str(fault))


def _jsonl(content: bytes, where: str) -> Iterator[Line]:
    for number, line in enumerate(decode_text(content, where).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as fault:
            yield Line({}, place, f"{place} is no JSON: {fault.msg}, column {fault.colno}.")
            continue
        except (ValueError, RecursionError) as fault:  # a number or nesting without end
            yield Line({}, place, f"{place} is no JSON: {fault}.")
            continue
        wrong = "" if isinstance(record, dict) else f'{place} has no "file_name": {line[:80]}.'
        yield Line({} if wrong else record, place, wrong)


def _csv(content: bytes, where: str) -> Iterator[Line]:
    text = decode_text(content, where)
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        if twice := [name for name in head if head.count(name) > 1]:
            raise ValueError(f"{where} has two columns called {twice[0]!r}. Rename one of them.")
        for cells in reader:
            place = f"{where}, line {reader.line_num}"
            if cells and len(cells) != len(head):
                yield Line(
                    {},
                    place,
                    f"{place} has {len(cells)} fields, but the header {len(head)}. Put a text that "
                    f"holds {delimiter!r} or a line break in double quotes.",
                )
            elif cells:
                yield Line(dict(zip(head, map(_cell, head, cells), strict=True)), place)
    except csv.Error as fault:
        raise ValueError(f"{where}, line {reader.line_num} is no CSV: {fault}.") from None


def _cell(column: str, text: str) -> Any:
    """A field of CSV, which has no types: none where it is empty, a number in a label's column."""
    if column.lower() in LABELS:
        return number_of(text)
    return text or None


def _parquet(content: bytes, where: str) -> Iterator[Line]:
    try:
        rows = read_table(pa.BufferReader(content)).to_pylist()
    except (pa.ArrowException, OSError) as fault:
        raise ValueError(f"{where} cannot be read as parquet: {fault}.") from None
    yield from (Line(row, f"{where}, row {n}") for n, row in enumerate(rows, start=1))


def _checked(line: Line) -> Line:
    """The line with its `file_name` under that key, or what is wrong with that."""
    record, place, _ = line
    columns = {str(key).strip().lower(): key for key in record}
    column = next((columns[name] for name in FILE_NAMES if name in columns), None)
    name = record.get(column) if column is not None else None
    if not isinstance(name, str) or not name.strip():
        listed = ", ".join(map(str, record)) or "none"
        return Line({}, place, f'{place} has no "file_name"; its columns are {listed}.')
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return Line({}, place, f"{place} leads out of its folder: {name!r}.")
    return Line({"file_name": name, **{k: v for k, v in record.items() if k != column}}, place)
