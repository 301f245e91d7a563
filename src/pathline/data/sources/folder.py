"""A folder of your own pictures: metadata, side-cars, class folders, split folders.

Everything is read again each time, so an edited caption or picture is never stale.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pathline.data.faults import refuse
from pathline.data.sources.collection import Asked, Folders, source_of
from pathline.data.sources.items import Files, collect
from pathline.data.sources.listing import Survey, is_picture, reason_of_name, survey
from pathline.data.sources.metadata import is_metadata
from pathline.data.sources.source import Source
from pathline.data.transforms import read_bytes
from pathline.files import why_missing

SPLITS = ("train", "training", "test", "val", "valid", "validation")


def folder(
    *,
    path: Path,
    caption: str | None = None,
    label: str | None = None,
    split: str | None = None,
    folders: Folders = "auto",
) -> Source:
    """Pictures under a folder, sorted by path. caption, label: columns of the metadata.

    folders: what sub-folders mean: classes, repeats (5_name: five times an epoch), none or auto.

    Captions come from `metadata.jsonl`, `.csv` or `.parquet` (in any folder; `file_name` and a text
    column), else from a side-car `a.png.txt` or `a.txt` (`.caption` too), where each line is a
    caption; pictures of one stem share `a.txt`; else from `a.json`. Those of a list `captions` in
    the metadata follow; `caption` may name another list. An empty caption is none. Labels come from
    metadata, else from the sub-folders if every picture lies exactly one deep in at least two.
    Sub-folders called train, test … are splits; the default is train. Raises FileNotFoundError, or
    ValueError that lists all that is wrong with the folder.
    """
    top = existing_folder(path)
    splits = splits_of(top)
    root = _split_root(top, splits, split)
    found = survey(top)
    refuse(found.problems, top)
    files, left_out = _files(top, root, splits, found)
    found_items = collect(files)
    found_items.left_out.update(left_out)
    asked = Asked(caption, label, folders)
    source = source_of([found_items], str(root), asked, lambda name: name[len(files.inside) :])
    if root == top:
        return source
    others = ", ".join(sorted(folder.name for folder in splits.values() if folder != root))
    note = f"split {root.name}; data.source.split chooses another: {others or 'there is none'}"
    return source._replace(notes=(note, *source.notes))


def existing_folder(path: Path) -> Path:
    """The path, if it is a folder; the error says what is there instead, or names folders near."""
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; wanted a folder of pictures")
    raise FileNotFoundError(why_missing(path))


def splits_of(root: Path) -> dict[str, Path]:
    """The sub-folders by their names, where all of them are splits and no picture lies beside."""
    inside = [path for path in root.iterdir() if not reason_of_name(path.name)]
    splits = _by_name(path for path in inside if path.is_dir())
    mixed = not set(splits) <= set(SPLITS) or any(is_picture(path.name) for path in inside)
    return {} if mixed else splits


def _files(
    top: Path, root: Path, splits: dict[str, Path], found: Survey
) -> tuple[Files, dict[str, list[str]]]:
    """The files of the split, with the metadata above it, and what is left out there."""
    inside = f"{root.relative_to(top).as_posix()}/" if root != top else ""
    other = tuple(f"{p.relative_to(top).as_posix()}/" for p in splits.values() if p != root)

    def is_here(name: str) -> bool:
        if name.startswith(inside):
            return True
        return is_metadata(PurePosixPath(name)) and not name.startswith(other)

    names = sorted(name for p in found.files if is_here(name := p.relative_to(top).as_posix()))
    left_out = {
        reason: here
        for reason, of_reason in found.left_out.items()
        if (here := [name for name in of_reason if name.startswith(inside)])
    }
    files = Files(
        str(top), names, lambda name: read_bytes(top / name), lambda name: top / name, inside=inside
    )
    return files, left_out


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


def _split_root(root: Path, splits: dict[str, Path], split: str | None) -> Path:
    """The folder of the split, where the sub-folders are splits; else the root."""
    if split is None and not splits:
        return root
    if split is not None:  # asked for by name, it may lie among other things
        splits = _by_name(path for path in root.iterdir() if path.is_dir())
    usual = "training" if "training" in splits and "train" not in splits else "train"
    name = split.lower() if split else usual
    if name not in splits:
        listed = ", ".join(sorted(splits)) or "none"
        raise ValueError(f"{root} has no split {name!r}; its sub-folders are {listed}. Use split=…")
    return splits[name]
