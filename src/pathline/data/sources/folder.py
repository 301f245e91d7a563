"""An own folder of pictures: metadata.jsonl, side-cars, class folders, split folders.

Everything is read again each time, so an edited caption or picture is never stale.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pathline.data.sources.columns import Columns, choose, class_rows
from pathline.data.sources.source import UNDECODED, Source
from pathline.data.transforms import decode
from pathline.types import Example

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SPLITS = ("train", "training", "test", "val", "valid", "validation")
METADATA = "metadata.jsonl"


class Entry(NamedTuple):
    """One picture of a folder."""

    path: Path
    key: str
    captions: tuple[str, ...]  # in order of preference
    label: Any = None


def folder(
    *, path: Path, caption: str | None = None, label: str | None = None, split: str | None = None
) -> Source:
    """Pictures under a folder, sorted by path. caption, label: fields of metadata.jsonl.

    Captions come from `metadata.jsonl` (in any folder; `file_name` and a text field), else from a
    side-car `a.png.txt` or `a.txt`, where each line is a caption; pictures of one stem share
    `a.txt`. Those of a list `captions` in metadata.jsonl follow; `caption` may name another list.
    An empty caption is none. Labels come from metadata, else from the sub-folders if every picture
    lies exactly one deep in at least two. Sub-folders called train, test … are splits; the default
    is train. Raises FileNotFoundError, or ValueError where there is no picture.
    """
    root = _split_root(existing_folder(path), split)
    files = list(walk(root))
    entries = _entries(root, files, caption, label)
    if not entries:
        raise ValueError(
            f"{root} holds no picture: wanted files ending in {', '.join(sorted(PICTURES))}, "
            f"found {_others(root)}"
        )
    # Labels of the metadata win over folder names.
    labels = [entry.label for entry in entries]
    names: tuple[str, ...] = ()
    if any(value is not None for value in labels):
        labels, names = class_rows(labels, str(root))
    elif is_classes(root, [entry.path for entry in entries]):
        labels, names = class_rows([entry.path.parent.name for entry in entries], str(root))

    def read(row: int) -> Example:
        entry = entries[row]
        return about(row)._replace(image=decode(entry.path))

    # Without pixels, for scans that need names and captions only.
    def about(row: int) -> Example:
        entry = entries[row]
        return example(UNDECODED, entry.captions, labels[row], entry.key)

    captioned = any(entry.captions for entry in entries)
    return Source(len(entries), read, names, captioned, lambda row: entries[row].path, about)


def existing_folder(path: Path) -> Path:
    """The path, if it is a folder; the error names folders near it."""
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; wanted a folder of pictures")
    around = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    siblings = f"; next to it are {', '.join(around[:12])}" if around else ""
    raise FileNotFoundError(f"there is no {path.absolute()}{siblings}")


def walk(root: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below, sorted, hidden ones and hidden folders left out.

    above: the real folders around; a link back to one of them is not followed.
    """
    real = root.resolve()
    if real in above:
        return
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from walk(path, above | {real})
        else:
            yield path


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def tidy(text: Any) -> str | None:
    """A caption on one line, half characters as "?"; None for an empty one."""
    if text is None:
        return None
    return " ".join(str(text).encode("utf-8", "replace").decode().split()) or None


def several(*texts: Any) -> tuple[str, ...]:
    """Captions, each tidy and once; a list among them is taken apart, None and "" are none."""
    flat = [part for text in texts for part in (text if isinstance(text, list | tuple) else [text])]
    return tuple(dict.fromkeys(line for part in flat if (line := tidy(part))))


def example(image: Any, captions: tuple[str, ...], label: int | None, key: str) -> Example:
    """An example whose caption is the first of its captions."""
    return Example(image, captions[0] if captions else None, label, key, captions)


def splits_of(root: Path) -> dict[str, Path]:
    """The sub-folders by their names, where all of them are splits and no picture lies beside."""
    inside = [path for path in root.iterdir() if not path.name.startswith(".")]
    splits = _by_name(path for path in inside if path.is_dir())
    mixed = not set(splits) <= set(SPLITS) or any(is_picture(path) for path in inside)
    return {} if mixed else splits


def _by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """By their names in lower case. Raises ValueError for splits that differ in case alone."""
    by_name: dict[str, Path] = {}
    for folder in sorted(folders):
        name = folder.name.lower()
        if name in by_name and name in SPLITS:
            raise ValueError(
                f"{by_name[name]} and {folder} are one split by name: put them together, or rename "
                "one of them"
            )
        by_name[name] = folder
    return by_name


def _split_root(root: Path, split: str | None) -> Path:
    """The folder of the split, where the sub-folders are splits; else the root."""
    splits = splits_of(root)
    if split is None and not splits:
        return root
    if split is not None:  # asked for by name, it may lie among other things
        splits = _by_name(path for path in root.iterdir() if path.is_dir())
    # `training` stands for `train` where no folder has that name.
    usual = "training" if "training" in splits and "train" not in splits else "train"
    name = split.lower() if split else usual
    if name not in splits:
        listed = ", ".join(sorted(splits)) or "none"
        raise ValueError(f"{root} has no split {name!r}; its sub-folders are {listed}. Use split=…")
    return splits[name]


def _entries(root: Path, paths: list[Path], caption: str | None, label: str | None) -> list[Entry]:
    """A row for each metadata line and for each picture that no line names, sorted by key."""
    files = set(paths)
    lines = [(file, line) for file in paths if file.name == METADATA for line in records(file)]
    if not lines and (caption or label):
        raise ValueError(f"caption= and label= name fields of {METADATA}, but {root} has none")
    fields = fields_of([line for _, line in lines], str(root), caption=caption, label=label)
    entries, named = [], set()
    for place, record in lines:
        path = place.parent / PurePosixPath(record["file_name"])
        # The record's caption wins over the side-car's; those of its list follow.
        own_texts = several(record.get(fields.caption or "")) or several(sidecar(path, files))
        captions = several(own_texts, record.get(fields.captions or ""))
        named.add(path)
        entries.append(Entry(path, _key(root, path), captions, record.get(fields.label or "")))
    rest = (path for path in paths if is_picture(path) and path not in named)
    entries += [Entry(path, _key(root, path), sidecar(path, files)) for path in rest]
    return _numbered(sorted(entries, key=lambda entry: entry.key))


def _numbered(entries: list[Entry]) -> list[Entry]:
    """Keys made unique where several lines name one picture (several captions): `a.png#2`."""
    times: Counter[str] = Counter()
    numbered = []
    for entry in entries:
        times[entry.key] += 1
        again = times[entry.key]
        numbered.append(entry if again == 1 else entry._replace(key=f"{entry.key}#{again}"))
    return numbered


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def beside(path: Path) -> tuple[Path, Path]:
    """Where side-cars of a picture lie: `a.png.txt` goes before `a.txt`."""
    return path.with_name(path.name + ".txt"), path.with_suffix(".txt")


def sidecar(path: Path, files: set[Path]) -> tuple[str, ...]:
    """The captions beside a picture, one a line."""
    for file in beside(path):
        if file in files:
            try:
                return several(file.read_text("utf-8-sig").splitlines())
            except UnicodeDecodeError as fault:
                raise ValueError(f"{file} is not UTF-8 text: {fault}") from fault
    return ()


def records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a metadata file; ValueError names file and line of a wrong one."""
    # Only \n ends a line: JSON texts may hold other separators that splitlines would cut at.
    for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as fault:
            raise ValueError(f"{file}, line {number} is no JSON: {fault}") from fault
        name = record.get("file_name") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f'{file}, line {number} has no "file_name": {line[:80]}')
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{file}, line {number} leads out of its folder: {name!r}")
        yield record


def fields_of(
    lines: list[dict[str, Any]],
    where: str,
    *,
    caption: str | None = None,
    label: str | None = None,
) -> Columns:
    """The metadata fields that hold caption, label and further captions."""
    kinds = {"file_name": "image"}
    for record in lines:
        for key, value in record.items():
            if key != "file_name" and value is not None and value != []:
                kinds.setdefault(key, _kind(value))
    return choose(kinds, caption=caption, label=label, where=f"{METADATA} of {where}")


def _kind(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "texts"
    if isinstance(value, bool) or not isinstance(value, str | int):
        return "other"
    return "text" if isinstance(value, str) else "int"


def is_classes(root: Path, paths: list[Path]) -> bool:
    """Whether every picture lies exactly one folder deep, in at least two."""
    folders = {path.parent for path in paths}
    return len(folders) > 1 and all(folder.parent == root for folder in folders)


def _others(root: Path) -> str:
    """What a folder holds instead, in a few words."""
    kinds = sorted({path.suffix.lower() or path.name for path in walk(root)})
    return f"only files ending in {', '.join(kinds[:8])}" if kinds else "no files at all"
