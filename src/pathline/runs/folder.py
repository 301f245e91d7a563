"""A run folder: run.yaml, facts.json, origin.json, metrics.jsonl, samples, checkpoints, latest."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from pathline.compatibility import push_share
from pathline.config.layers import to_tree
from pathline.config.resolve import RUN, Root, read_as
from pathline.config.run import Run
from pathline.config.yaml_io import Entry
from pathline.config.yaml_io import write as yaml_of
from pathline.files import write_whole
from pathline.flow.guidance import Push
from pathline.training import checkpoint
from pathline.training.power_ema import read as read_average
from pathline.types import CacheInfo, Facts

RUNS = Path("runs")
SETTINGS, FACTS, ORIGIN = "run.yaml", "facts.json", "origin.json"
AVERAGES = "averages"  # folder of power-EMA snapshots
PUSH = "push"  # file of a checkpoint: the mean velocity of a contrastive term
LATEST, BEST = "latest", "best"  # texts that name a checkpoint
UNREADABLE = "unreadable.jsonl"  # unreadable images; the only file of a run they stopped
PACKAGES = ("torch", "numpy", "pillow", "datasets", "safetensors", "scikit-learn", "scipy")
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
    saved: Path | None  # the checkpoint; None: there is none yet

    @property
    def checkpoint(self) -> Path:
        """The checkpoint. Raises ValueError if there is none yet."""
        if self.saved is None:
            raise ValueError(f"{self.folder} has no whole checkpoint yet. Train it further first.")
        return self.saved


def fresh(name: str, out: Path | None) -> Path:
    """The empty folder of a new run. A folder that is not empty is refused, not overwritten."""
    if out is None:
        taken = {path.name for path in RUNS.glob(f"{escape(name)}-*")}
        number = next(n for n in range(1, 10**6) if f"{name}-{n}" not in taken)
        out = RUNS / f"{name}-{number}"
    # The list of unreadable pictures is written before a run begins, and does not count.
    if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {UNREADABLE}):
        raise ValueError(
            f"--out {out} exists and is not empty. Continue it with --resume {out}, or choose "
            "another --out; nothing was overwritten."
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def gone_if_empty(folder: Path) -> Iterator[None]:
    """Delete the folder of a run that was refused before its first file was written."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty, or another process was first
            folder.rmdir()
        raise


def write(folder: Path, run: Any, facts: Facts, kind: Kind[Any] = FLOW) -> dict[str, str]:
    """Write settings and facts before the first update; returns the texts of every checkpoint."""
    texts = {
        kind.settings: yaml_of(to_tree(run)),
        FACTS: json.dumps(facts._asdict()),
    }
    origin = json.dumps(_origin(), indent=1)
    for file, text in {**texts, ORIGIN: origin}.items():
        write_whole(folder / file, text)
    return texts


def publish(folder: Path, saved: Path, run: Any) -> None:
    """Name a new checkpoint in `latest`, and delete old ones by run.train.keep_…."""
    write_whole(folder / LATEST, f"checkpoints/{saved.name}\n")
    # The best checkpoint is never deleted, however old.
    best = (folder / BEST).read_text().split()[:1] if (folder / BEST).is_file() else []
    checkpoint.prune(
        saved.parent,
        recent=run.train.keep_recent,
        every=run.train.keep_every,
        keep=[Path(named).name for named in best],
        upto=int(saved.name[5:]),
    )


def newest_run(name: str | None, kind: Kind[Any] = FLOW) -> Path:
    """The run folder under runs/ that was written to last; with a name, of that preset."""
    pattern = escape(name) if name else "*"
    folders = [path.parent for path in RUNS.glob(f"{pattern}-*/{kind.settings}")]
    if not folders:
        raise ValueError(
            f"latest is wrong because there is no {f'{name} run' if name else 'run'} under "
            f"{RUNS.resolve()}. Name a run folder, or train one first."
        )
    return max(folders, key=lambda path: (path / kind.settings).stat().st_mtime_ns)


def open_run(where: Path, warn: Callable[[str], None]) -> Opened[Run]:
    """A run folder (its newest whole checkpoint) or one checkpoint folder of it."""
    opened = reopen(where, warn, FLOW)
    return replace(opened, saved=opened.checkpoint)


def reopen(where: Path, warn: Callable[[str], None], kind: Kind[R]) -> Opened[R]:
    """The same for a resumed run, which may have been stopped before its first checkpoint."""
    if where.name == LATEST and not where.exists():
        where = newest_run(None, kind)
    if not where.is_dir():
        raise ValueError(f"{where} is not a run folder: it does not exist. Runs are under {RUNS}/.")
    # A checkpoint that was named must be whole; no other one takes its place in silence.
    if (where / checkpoint.MANIFEST).is_file() or where.name.startswith("step-"):
        if fault := checkpoint.fault_of(where):
            raise ValueError(
                f"{where} is not a whole checkpoint: {fault}. Name the run to use its newest."
            )
        return _read(where.parent.parent, where, kind)
    if not (where / kind.settings).is_file() or not (where / FACTS).is_file():
        raise ValueError(
            f"{where} is not a run folder: it has no {kind.settings}. {kind.command} makes one."
        )
    return _read(where, checkpoint.newest(where / "checkpoints", warn), kind)


def _read(folder: Path, saved: Path | None, kind: Kind[R]) -> Opened[R]:
    texts = saved or folder
    run = read_as(kind.root, base=texts / kind.settings).run
    return Opened(folder, run, _facts((texts / FACTS).read_text()), saved)


def _facts(text: str) -> Facts:
    """Facts from JSON, which has no tuples and no records in records."""
    values = {key: _tupled(value) for key, value in json.loads(text).items()}
    cache = values.pop("cache", None)
    return Facts(**values, cache=CacheInfo(*cache) if cache else None)


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def mean_velocity(run: Run, saved: Path | None) -> Push | None:
    """The mean velocity of a run with a contrastive term, from its checkpoint; None without."""
    if saved is None or not push_share(run):
        return None
    tensors = checkpoint.load(saved, only=(PUSH,)).tensors.get(PUSH)
    return Push(push_share(run), tensors["mean"]) if tensors else None


def mean_velocity_tensors(push: Push | None) -> dict[str, dict[str, Tensor]]:
    """The mean velocity as a checkpoint stores it, by file."""
    return {} if push is None else {PUSH: {"mean": push.mean}}


def weights_of(opened: Opened[Run], ema: float | Path | None) -> tuple[dict[str, Tensor], str]:
    """The network's tensors for sampling, and which they are; ema as of `sampling.parts_of`."""
    weights = checkpoint.load(opened.checkpoint, only=("network",)).tensors["network"]
    average, named = _average(opened, ema)
    return weights | average, named


def _average(opened: Opened[Run], ema: float | Path | None) -> tuple[dict[str, Tensor], str]:
    """The averaged weights and their name; none for the weights themselves."""
    if isinstance(ema, Path):
        return read_average(ema), f"average {ema.stem}"
    # The first decay, unless another is asked for.
    decays = opened.run.train.ema
    decay = (decays[0] if decays else 0) if ema is None else ema
    if decay and decay not in decays:
        raise ValueError(
            f"--ema {decay} is wrong because this run has no such average. It has "
            f"{decays or 'none'}; 0 is without EMA."
        )
    if not decay:
        return {}, "weights"
    stem = f"network-ema-{decay}"
    return checkpoint.load(opened.checkpoint, only=(stem,)).tensors[stem], f"EMA {decay}"


def _origin() -> dict[str, Any]:
    """The command, the versions and the git commit, to repeat the run."""
    return {
        "command": sys.argv,
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in ("pathline", *PACKAGES)},
        "git": _git(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git() -> dict[str, Any] | None:
    """Commit and whether the tree was changed; None outside a checkout or without git."""
    package = Path(__file__).parent
    try:
        ask = ["git", "-C", str(package)]
        commit = subprocess.run(
            [*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*ask, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(changed.stdout.strip())}
