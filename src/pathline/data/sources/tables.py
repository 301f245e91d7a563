"""Pictures in tables: parquet, webdataset tars, the hub, all read by HF `datasets`.

The library copies local tables to its cache on disk. Ours are keyed there by name, size and times
of the files, so that a changed file is read again; the pictures are decoded by us.
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from pathline.data.sources.columns import IMAGES, choose, class_rows
from pathline.data.sources.folder import example, existing_folder, several, walk
from pathline.data.sources.source import UNDECODED, Source
from pathline.data.transforms import decode
from pathline.types import Example

NAMED = re.compile(r"(train|training|test|val|valid|validation)(?![a-z])")  # a file after its split
SAME = {"training": "train", "val": "validation", "valid": "validation"}


def parquet(
    *,
    path: Path,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> Source:
    """A parquet file, or a folder of them; of files named after splits, train is the default."""
    files, split = _of_split(_files(path, ".parquet"), split)
    roots = [path.parent if path.is_file() else path]
    name = split or path.stem
    return _table(_load("parquet", files), image, caption, label, name, str(path), roots)


def tar(
    *,
    path: Path,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> Source:
    """Webdataset shards: a tar file or a folder of them; pictures, txt, cls, json by key."""
    files, _ = _of_split(_files(path, ".tar"), split)
    features = _features([suffix for file in files for suffix in _suffixes(file)], str(path))
    table = _load("webdataset", files, features=features)
    return _table(table, image, caption, label, path.stem, str(path), [path.parent])


def hub(
    *,
    repo: str,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> Source:
    """A data set of the Hugging Face hub by its name, such as uoft-cs/cifar10."""
    datasets = _datasets()
    try:
        table = datasets.load_dataset(repo, name=subset, split=split, revision=revision)
    except Exception as fault:  # the library raises a dozen kinds, of the net and of the data set
        raise ValueError(
            f"the data set {repo!r} (subset {subset}, split {split!r}) cannot be had: "
            f"{type(fault).__name__}: {str(fault).strip()}. Check the name and the connection; "
            "data already on this machine is read by source=folder, parquet or tar."
        ) from fault
    return _table(table, image, caption, label, split, repo, _caches(datasets, Path(repo)))


def _caches(datasets: Any, path: Path) -> list[Path]:
    """Where the library keeps what it fetched; a local folder read by is such a place itself."""
    from huggingface_hub.constants import HF_HUB_CACHE

    config = datasets.config
    caches = [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, HF_HUB_CACHE]
    return [*([path] if path.is_dir() else []), *map(Path, caches)]


def _files(path: Path, suffix: str) -> list[Path]:
    """The file itself, or the sorted files of that kind below a folder."""
    if path.is_file():
        return [path]
    files = [file for file in walk(existing_folder(path)) if file.suffix.lower() == suffix]
    if not files:
        raise ValueError(f"{path} holds no {suffix} file")
    return files


def _of_split(files: list[Path], split: str | None) -> tuple[list[Path], str | None]:
    """The files whose name begins with the split's, if any are named so; else all."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        word = NAMED.match(file.stem.lower())
        by_split.setdefault(SAME.get(word[1], word[1]) if word else "", []).append(file)
    # No file is named after a split: all of them are the data.
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


def _datasets() -> Any:
    """The `datasets` library without progress bars and chatter."""
    import datasets  # takes a second, and pictures in a folder don't need it

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    return datasets


def _load(kind: str, files: list[Path], **options: Any) -> Any:
    """A local table. `name` carries the files' stamp: the library itself looks at mtime alone."""
    stamp = hashlib.sha256()
    for file in files:
        state = file.stat()
        facts = (str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        stamp.update(repr(facts).encode())
    data_files = {"train": [escape(str(file)) for file in files]}  # it reads patterns
    name = f"pathline-{stamp.hexdigest()[:16]}"
    try:
        options |= {"name": name, "data_files": data_files, "split": "train"}
        return _datasets().load_dataset(kind, **options)
    except Exception as fault:  # pyarrow's and the library's own, many kinds
        cause = fault.__cause__ or fault
        names = ", ".join(str(file) for file in files[:4])
        raise ValueError(f"{names} cannot be read as {kind}: {cause}") from fault


def _table(
    table: Any,
    image: str | None,
    caption: str | None,
    label: str | None,
    part: str,
    where: str,
    roots: Sequence[Path],
) -> Source:
    """A data set of the library as a source. roots: where files that its cells name may lie."""
    # Columns by their type and name, unless they are given.
    cells = dict(_cells(table))
    kinds = {name: _kind(feature) for name, (feature, _) in cells.items()}
    columns = choose(kinds, image=image, caption=caption, label=label, where=where)
    pictures = cells[columns.image][1]
    caption, further = columns.caption, columns.captions
    # Captions: the column's, then those of a list.
    texts = [cells[name][1] for name in (caption, further) if name]
    by_line = caption is not None and caption.lower().rpartition(".")[2] == "txt"  # as side-cars
    keys = cells["__key__"][1] if "__key__" in cells else None
    labels, names = ([None] * len(table), ())
    if columns.label:
        labels, names = _labels(*cells[columns.label], where)

    def key(row: int) -> str:
        return keys[row].as_py() if keys is not None else f"{part}-{row:06d}"

    def encoded(row: int) -> bytes | Path:
        return _encoded(pictures[row].as_py(), key(row), roots)

    def about(row: int) -> Example:
        captions = [column[row].as_py() for column in texts]
        if by_line and captions[0] is not None:
            captions[0] = captions[0].splitlines()
        return example(UNDECODED, several(*captions), labels[row], key(row))

    def read(row: int) -> Example:
        image = decode(encoded(row), name=f"{where}: {key(row)}")
        return about(row)._replace(image=image)

    return Source(len(table), read, names, bool(texts), encoded, about)


def _cells(table: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """name -> (feature, values) of each column; those of a json member as `json.prompt` …"""
    for name, feature in table.features.items():
        column = table.data.column(name)
        if isinstance(feature, dict) and "bytes" not in feature:
            inner = zip(feature.items(), column.flatten(), strict=True)
            yield from ((f"{name}.{key}", (kind, values)) for (key, kind), values in inner)
        else:
            yield name, (feature, column)


def _encoded(cell: Any, key: str, roots: Sequence[Path]) -> bytes | Path:
    """The bytes of a picture's cell, or the file that it points to, below one of the roots."""
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        cell = _below(Path(path), key, roots) if data is None and path else data
    if not cell:
        raise ValueError(f"{key} has no picture")
    return cell


def _below(path: Path, key: str, roots: Sequence[Path]) -> Path:
    """Raises ValueError for a file elsewhere: a table from a stranger must not read any."""
    file = (roots[0] / path).resolve()
    if not any(file.is_relative_to(root.resolve()) for root in roots):
        raise ValueError(
            f"{key} names the file {path}, which is not below {roots[0]}: put it there, or the "
            "picture itself into the table"
        )
    return file


def _kind(feature: Any) -> str:
    """What a column of the library holds, in the words of `columns.choose`."""
    named = type(feature).__name__
    if named in ("Image", "ClassLabel"):
        return {"Image": "image", "ClassLabel": "class"}[named]
    if isinstance(feature, dict):
        return "bytes" if "bytes" in feature else "other"
    if named in ("List", "LargeList", "Sequence") or isinstance(feature, list):
        inner = feature[0] if isinstance(feature, list) else feature.feature
        return "texts" if _kind(inner) == "text" else "other"
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in ("string", "large_string"):
        return "text"
    if dtype in ("binary", "large_binary"):
        return "bytes"
    return "int" if dtype.startswith(("int", "uint")) else "other"


def _labels(feature: Any, column: Any, where: str) -> tuple[list[int | None], tuple[str, ...]]:
    """Labels and class names of a column; −1 of a ClassLabel means none."""
    values = column.to_pylist()
    names = getattr(feature, "names", None)
    if names is None:
        return class_rows(values, where)
    wrong = [value for value in values if value is not None and not -1 <= value < len(names)]
    if wrong:
        raise ValueError(f"{where} has the label {wrong[0]}, but only {len(names)} classes")
    return [None if value == -1 else value for value in values], tuple(names)


def _suffixes(file: Path) -> list[str]:
    """The suffixes of a tar's members, read from their headers."""
    try:
        with tarfile.open(file, "r:") as members:
            names = [member.name for member in members if member.isfile()]
            end = members.offset
        with file.open("rb") as raw:
            raw.seek(end)
            rest = raw.read(tarfile.BLOCKSIZE)
        if any(rest) or len(rest) % tarfile.BLOCKSIZE:  # tarfile takes a cut header for the end
            raise tarfile.ReadError(f"it is cut short after {len(names)} members")
    except (tarfile.TarError, OSError) as fault:
        raise ValueError(f"{file} cannot be read as a plain tar: {fault}") from fault
    # What follows the first dot, by which WebDataset tells the members of a sample apart.
    bases = [name.rpartition("/")[2] for name in names]
    return list(dict.fromkeys(base.partition(".")[2] for base in bases if "." in base[1:]))


def _features(suffixes: list[str], where: str) -> Any:
    """Columns for a tar's suffixes; given outright, a sample may lack one.

    None where there is json, whose fields the library has to find out by itself.
    """
    if not any(suffix.lower() in IMAGES for suffix in suffixes):
        listed = ", ".join(sorted(set(suffixes))) or "none"
        raise ValueError(f"{where} holds no picture; the suffixes of its members are {listed}")
    if any(suffix.lower().endswith(("json", "jsn")) for suffix in suffixes):
        return None
    datasets = _datasets()
    kinds: dict[str, Callable] = {
        **dict.fromkeys(IMAGES, datasets.Image),
        **{name: lambda: datasets.Value("string") for name in ("txt", "text", "__key__")},
        **{name: lambda: datasets.Value("int64") for name in ("cls", "id", "index")},
    }
    # Members with other suffixes are not read.
    columns = [*dict.fromkeys(suffixes), "__key__"]
    return datasets.Features(
        {name: kinds[name.lower()]() for name in columns if name.lower() in kinds}
    )
