"""Pictures in tables: parquet and the hub, read by HF `datasets`.

The library copies local tables to its cache on disk. Ours are keyed there by name, size and times
of the files, so that a changed file is read again; the pictures are decoded by us.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from pathline.data.sources.columns import CHOOSE, Columns, choose, class_rows, kind_of, unused
from pathline.data.sources.items import several
from pathline.data.sources.source import UNDECODED, Source
from pathline.data.sources.split_files import files_below, files_of_split
from pathline.data.transforms import decode
from pathline.types import Example

DTYPES = {  # kind -> how the library calls numbers and texts of it
    "text": ("string", "large_string"),
    "bytes": ("binary", "large_binary"),
    "int": ("int", "uint"),
    "float": ("float", "double", "decimal"),
    "bool": ("bool",),
    "null": ("null",),
}


def parquet(
    *,
    path: Path,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> Source:
    """A parquet file, or a folder of them; of files named after splits, train is the default."""
    files, split = files_of_split(files_below(path, ".parquet"), split)
    roots = [path.parent if path.is_file() else path]
    name = split or path.stem
    return _table(_load("parquet", files), image, caption, label, name, str(path), roots)


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
    kinds = {name: kind for name, cell in cells.items() if (kind := _kind_of_cells(*cell))}
    columns = choose(kinds, image=image, caption=caption, label=label, where=where)
    pictures = cells[columns.image][1]
    # Captions: the column's, then those of a list. Text of a side-car has one a line.
    texts = [cells[name][1] for name in columns.captions]
    by_line = (columns.caption or "").lower().rpartition(".")[2] == "txt"
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
        lines = several(*captions)
        return Example(UNDECODED, lines[0] if lines else None, labels[row], key(row), lines)

    def read(row: int) -> Example:
        image = decode(encoded(row), name=f"{where}: {key(row)}")
        return about(row)._replace(image=image)

    notes = _notes(kinds, columns, len(table))
    return Source(len(table), read, names, bool(texts), encoded, about, notes)


def _notes(kinds: dict[str, str], columns: Columns, count: int) -> tuple[str, ...]:
    """Sentences on which columns are used, and which might hold captions or labels and are not."""
    used = {"pictures": [columns.image], "captions": columns.captions, "classes": [columns.label]}
    listed = [f"{noun} from {', '.join(c)}" for noun, names in used.items() if (c := _set(names))]
    notes = [f"{count} rows: {'; '.join(listed)}"]
    if spare := unused(kinds, columns):
        notes.append(f"columns not used: {', '.join(spare)}; {CHOOSE}")
    return tuple(notes)


def _set(names: Iterable[str | None]) -> list[str]:
    return [name for name in names if name]


def _kind_of_cells(feature: Any, column: Any) -> str | None:
    """What a column holds; None where all of it is empty. Numbers are looked at one by one."""
    kind = _kind(feature)
    if kind == "float":
        return kind_of(column.to_pylist())
    return None if kind == "null" or column.null_count == len(column) else kind


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
        return "texts" if _kind(inner) in ("text", "int", "float") else "other"
    dtype = str(getattr(feature, "dtype", ""))
    return next((kind for kind, begins in DTYPES.items() if dtype.startswith(begins)), "other")


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
