"""A run folder: run.yaml, facts.json, origin.json, metrics.jsonl, samples, checkpoints, latest."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open

from pathline.config.ground import Root
from pathline.config.layers import to_tree
from pathline.config.resolve import RUN, read_as
from pathline.config.run import Run
from pathline.config.yaml_io import Entry
from pathline.config.yaml_io import write as yaml_of
from pathline.files import LOCK, locked, write_whole
from pathline.hints import command_line
from pathline.training import checkpoint
from pathline.training.origin import origin
from pathline.types import CacheInfo, Facts

RUNS = Path("runs")
SETTINGS, FACTS, ORIGIN = "run.yaml", "facts.json", "origin.json"
AVERAGES = "averages"  # folder of power-EMA snapshots
WEIGHTS = ".safetensors"  # suffix of exported weights
LATEST, BEST = "latest", "best"  # texts that name a checkpoint
UNREADABLE = "unreadable.jsonl"  # unreadable images; with the lock all of a run they stopped
R = TypeVar("R")


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of run: the file of its settings, what they are read into, the command that makes one.

    Kinds differ in that file, so that none is taken for another.
    """

    settings: str
    root: Root[R]
    command: str


FLOW = Kind(SETTINGS, RUN, "pathline train")


class Layers(NamedTuple):
    """What the settings of a run are read from, the last one first in `base`."""

    preset: str | None  # or a file or folder of images
    config: Sequence[Path]
    overrides: Sequence[str]
    flags: Mapping[str, Any]
    base: Path | None = None  # the settings file of a run that is resumed
    fitted: Sequence[Entry] = ()  # what the data and the machine ask for


@dataclass(frozen=True)
class Opened(Generic[R]):
    """A run on disk."""

    folder: Path
    run: R
    facts: Facts
    saved: Path | None  # the checkpoint or exported file; None: there is none yet
    exported: str = ""  # of an exported file: which weights it has
    exported_update: int = 0

    @property
    def update(self) -> int:
        """The update that the checkpoint is of."""
        return self.exported_update or checkpoint.update_of(self.checkpoint)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint. Raises ValueError if there is none yet."""
        if self.saved is None:
            raise ValueError(f"{self.folder} has no whole checkpoint yet. Train it further first.")
        return self.saved


def fresh(name: str, out: Path | None) -> Path:
    """The empty folder of a new run. A folder that is not empty is refused, not overwritten."""
    if out is None:
        return _numbered(name)
    if out.exists() and (not out.is_dir() or not _is_unused(out)):
        raise ValueError(
            f"--out {out} exists and is not empty. Continue it with --resume {out}, or choose "
            "another --out; nothing was overwritten."
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


def _numbered(name: str) -> Path:
    """The new folder runs/NAME-1, -2, …; of two runs that begin together, each has its own."""
    for number in range(1, 10**6):
        with suppress(FileExistsError):
            (RUNS / f"{name}-{number}").mkdir(parents=True)
            return RUNS / f"{name}-{number}"
    raise ValueError(f"{RUNS} has a million runs called {name}. Choose --out.")


def _is_unused(folder: Path) -> bool:
    """Whether there is nothing but what a refused training may leave."""
    return {path.name for path in folder.iterdir()} <= {LOCK, UNREADABLE}


@contextmanager
def held(folder: Path, *, is_first: bool) -> Iterator[None]:
    """Hold a run's folder for one training; delete it if that is refused before its first file.

    is_first: of several processes, the one that writes. Raises ValueError where another training
    holds the folder.
    """
    with locked(folder) if is_first else nullcontext():
        try:
            yield
        except BaseException as error:
            # The list of unreadable pictures stays where the message names it.
            if is_first and UNREADABLE not in str(error) and _is_unused(folder):
                _delete(folder)
            raise


def _delete(folder: Path) -> None:
    """Delete a folder without folders, and RUNS if it was the only one there."""
    with suppress(OSError):  # Windows deletes no file that is open
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        if folder.parent == RUNS:
            RUNS.rmdir()


def write(folder: Path, run: Any, facts: Facts, kind: Kind[Any] = FLOW) -> dict[str, str]:
    """Write settings and facts before the first update; returns the texts of every checkpoint."""
    texts = {
        kind.settings: yaml_of(to_tree(run)),
        FACTS: json.dumps(facts._asdict()),
    }
    for file, text in {**texts, ORIGIN: json.dumps(origin(), indent=1)}.items():
        write_whole(folder / file, text)
    return texts


def publish(folder: Path, saved: Path, run: Any) -> None:
    """Name a new checkpoint in `latest`, and delete old ones by run.train.keep_…."""
    write_whole(folder / LATEST, f"checkpoints/{saved.name}\n")
    # The best checkpoint is never deleted, however old.
    named = folder / BEST
    best = named.read_text("utf-8", errors="replace").split()[:1] if named.is_file() else []
    checkpoint.prune(
        saved.parent,
        recent=run.train.keep_recent,
        every=run.train.keep_every,
        keep=[Path(path).name for path in best],
        upto=checkpoint.update_of(saved),
    )


def resume_line(folder: Path, kind: Kind[Any] = FLOW) -> str:
    """The command that goes on with a run, to be pasted into a shell."""
    return command_line(*kind.command.split()[1:], "--resume", folder)


def newest_run(name: str | None, kind: Kind[Any] = FLOW) -> Path:
    """The run folder under runs/ that was written to last; with a name, of that preset."""
    pattern = f"{escape(name)}-*" if name else "*"  # --out may have named it anything
    folders = [path.parent for path in RUNS.glob(f"{pattern}/{kind.settings}")]
    if not folders:
        raise ValueError(
            f"latest is wrong because there is no {f'{name} run' if name else 'run'} under "
            f"{RUNS.resolve()}. Name a run folder, or train one first."
        )
    return max(folders, key=lambda path: (path / kind.settings).stat().st_mtime_ns)


def open_run(where: Path, warn: Callable[[str], None]) -> Opened[Run]:
    """A run folder (its newest whole checkpoint), one of its checkpoints, or an exported file."""
    if where.suffix == WEIGHTS and where.is_file():
        return _read_exported(where)
    opened = reopen(where, warn, FLOW)
    return replace(opened, saved=opened.checkpoint)


def reopen(where: Path, warn: Callable[[str], None], kind: Kind[R]) -> Opened[R]:
    """The same for a resumed run, which may have been stopped before its first checkpoint."""
    if where.name == LATEST and not where.exists():
        where = newest_run(None, kind)
    if not where.is_dir():
        what = "it is a file" if where.exists() else "it does not exist"
        raise ValueError(f"{where} is not a run folder: {what}. Runs are under {RUNS}/.")
    # A checkpoint that was named must be whole; no other one takes its place in silence.
    if (where / checkpoint.MANIFEST).is_file() or where.name.startswith("step-"):
        if fault := checkpoint.fault_of(where):
            raise ValueError(
                f"{where} is not a whole checkpoint: {fault}. Name the run to use its newest."
            )
        return _read(where.parent.parent, where, kind)
    for file in (kind.settings, FACTS):
        if not (where / file).is_file():
            raise ValueError(
                f"{where} is not a run folder: it has no {file}. `{kind.command}` makes one."
            )
    return _read(where, checkpoint.newest(where / "checkpoints", warn), kind)


def _read(folder: Path, saved: Path | None, kind: Kind[R]) -> Opened[R]:
    texts = saved or folder
    run = read_as(kind.root, base=texts / kind.settings).run
    return Opened(folder, run, _facts(texts / FACTS, (texts / FACTS).read_bytes()), saved)


def about_export(opened: Opened[Run], named: str) -> dict[str, str]:
    """What a file of exported weights says of itself, so that it can be sampled from alone.

    named: which weights it has.
    """
    texts = opened.checkpoint
    settings, facts = ((texts / file).read_text("utf-8") for file in (SETTINGS, FACTS))
    return {"run": settings, "facts": facts, "weights": named, "update": str(opened.update)}


def _read_exported(file: Path) -> Opened[Run]:
    """A file of weights that `pathline export` wrote. Raises ValueError for any other."""
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
        settings, facts, update = about["run"], about["facts"], int(about["update"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file} can't be opened as weights that `pathline export` wrote: "
            f"{f'it has no {error}' if isinstance(error, KeyError) else error}. Name such a file, "
            "a run folder or one of its checkpoints."
        ) from None
    # Settings are read from a file, so that a wrong one is reported with its line.
    with TemporaryDirectory() as home:
        Path(home, SETTINGS).write_text(settings, encoding="utf-8")
        run = read_as(RUN, base=Path(home, SETTINGS)).run
    return Opened(file.parent, run, _facts(file, facts), file, about.get("weights", ""), update)


def _facts(file: Path, text: bytes | str) -> Facts:
    """Facts from JSON, which has no tuples and no records in records; file: for the message."""
    try:
        values = {key: _tupled(value) for key, value in json.loads(text).items()}
        cache = values.pop("cache", None)
        return Facts(**values, cache=CacheInfo(*cache) if cache else None)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} can't be read as the facts of a run's data ({error}). Restore it from a copy; "
            f"every checkpoint of the run has one too."
        ) from None


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
