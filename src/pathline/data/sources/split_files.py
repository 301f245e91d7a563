"""The files of a data set, and those of one split by the names of files."""

import re
from pathlib import Path

from pathline.data.sources.folder import existing_folder
from pathline.data.sources.listing import walk

NAMED = re.compile(r"(train|training|test|val|valid|validation)(?![a-z])")  # a file after its split
SAME = {"training": "train", "val": "validation", "valid": "validation"}


def files_below(path: Path, suffix: str) -> list[Path]:
    """The file itself, or the sorted files of that kind below a folder."""
    if path.is_file():
        return [path]
    files = [file for file in walk(existing_folder(path)) if file.suffix.lower() == suffix]
    if not files:
        raise ValueError(f"{path} holds no {suffix} file")
    return files


def files_of_split(files: list[Path], split: str | None) -> tuple[list[Path], str | None]:
    """The files whose name begins with the split's, if any are named so; else all."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        word = NAMED.match(file.stem.lower())
        by_split.setdefault(SAME.get(word[1], word[1]) if word else "", []).append(file)
    if split is None and (len(files) == 1 or set(by_split) == {""}):
        return files, None
    name = (split or "train").lower()
    name = SAME.get(name, name)
    if name not in by_split:
        raise ValueError(
            f"no file is named after the split {split or name!r}: "
            f"{', '.join(file.name for file in files[:8])}; choose by split=…"
        )
    return by_split[name], name
