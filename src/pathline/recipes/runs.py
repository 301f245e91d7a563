"""`pathline runs`: the runs of a folder and their state; `pathline runs compare`: what differs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pathline.config.layers import flatten, to_tree
from pathline.config.resolve import read_as
from pathline.console import duration, open_console, say_on
from pathline.files import is_locked
from pathline.hints import command_line
from pathline.runs import folder as run_folder
from pathline.runs.codec_method import KIND
from pathline.runs.folder import FLOW, Kind
from pathline.training import checkpoint
from pathline.training.trackers.jsonl import METRICS, lines

KINDS = (FLOW, KIND)
COMPARE = "compare"
ROWS = 12  # updates at which losses are compared
CURVES = ("loss", "val/loss")
HEAD = ("run", "status", "update", "loss", "best", "time", "size", "last written")


class Summary(NamedTuple):
    """The state of a run, as far as its folder shows it."""

    folder: Path
    status: str  # training, finished, interrupted, damaged
    update: int
    updates: int  # that it is to be trained for; 0: unknown
    loss: float | None
    best: str  # metric and value
    seconds: float
    size: int  # bytes
    written: float  # time of the last change
    faults: list[str]


def runs(*words: str) -> int:
    """List the runs of a folder with their state, or compare runs.

    `pathline runs` and `pathline runs FOLDER` list status, updates, last loss, best metric, time
    of training and size. `pathline runs compare A B` prints the settings in which runs differ,
    their losses at common updates and their final metrics.

    Parameters
    ----------
    words:
        A folder of runs, "runs" by default; or "compare" and two or more run folders.
    """
    say = say_on(open_console())
    if words[:1] == (COMPARE,):
        for line in comparison([Path(word) for word in words[1:]]):
            say(line)
        return 0
    if len(words) > 1:
        raise ValueError(
            f"{' '.join(words)} is more than one folder. Name one, or compare runs: "
            f"{command_line('runs', COMPARE, *words)}"
        )
    root = Path(*words) if words else run_folder.RUNS
    summaries = sorted((summary_of(run) for run in runs_in(root)), key=lambda each: each.written)
    for line in aligned([HEAD, *map(_row, summaries)]):
        say(line)
    for summary in summaries:
        for fault in summary.faults:
            say(f"warning: {fault}")
    if unfinished := [each for each in summaries if each.status == "interrupted"]:
        last = unfinished[-1].folder
        say(f"next: {run_folder.resume_line(last, _kind_of(last) or FLOW)}")
    return 0


def runs_in(root: Path) -> list[Path]:
    """The run folders in a folder, or itself. Raises ValueError if there is none."""
    folders = [root, *sorted(root.iterdir())] if root.is_dir() else []
    if runs := [folder for folder in folders if _kind_of(folder)]:
        return runs
    reason = "has no run in it" if root.is_dir() else "is no folder"
    raise ValueError(f"{root} {reason}. `pathline train PRESET-OR-FOLDER` makes a run in runs/.")


def _kind_of(folder: Path) -> Kind[Any] | None:
    return next((kind for kind in KINDS if (folder / kind.settings).is_file()), None)


def _settings_of(folder: Path) -> Any:
    """The settings of a run. Raises ValueError."""
    kind = _kind_of(folder)
    if kind is None:
        raise ValueError(f"{folder} is no run folder: it has no {FLOW.settings}.")
    return read_as(kind.root, base=folder / kind.settings).run


def summary_of(folder: Path) -> Summary:
    """The state of a run. Checkpoints are checked by their sizes, not by their whole content."""
    faults: list[str] = []
    entries = list(lines(folder / METRICS, faults.append))
    whole = []
    for saved in checkpoint.folders(folder / "checkpoints"):
        if fault := checkpoint.fault_of(saved, with_digests=False):
            faults.append(f"{saved} is damaged: {fault}")
        else:
            whole.append(checkpoint.update_of(saved))
    try:
        updates = int(_settings_of(folder).train.updates)
    except (ValueError, OSError) as error:
        updates = 0
        faults.append(f"{folder}: {error}")
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    is_training = is_locked(folder)
    update = entries[-1]["update"] if is_training and entries else max(whole, default=0)
    return Summary(
        folder,
        _status(update, updates, is_training, is_whole=bool(whole) or not faults),
        update,
        updates,
        next((e["loss"] for e in reversed(entries) if _is_number(e.get("loss"))), None),
        _best_of(folder),
        _seconds(entries),
        sum(stat.st_size for stat in files),
        max((stat.st_mtime for stat in files), default=0.0),
        faults,
    )


def _status(update: int, updates: int, is_training: bool, *, is_whole: bool) -> str:
    if is_training:
        return "training"
    if not updates or not is_whole:
        return "damaged"
    return "finished" if update >= updates else "interrupted"


def _best_of(folder: Path) -> str:
    """Metric and value of the best checkpoint, from the file that names it."""
    file = folder / run_folder.BEST
    text = file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
    metric, _, value = text[1].partition(" ") if len(text) > 1 else ("", "", "")
    try:
        return f"{metric} {float(value):.4g}"
    except ValueError:
        return ""


def _seconds(entries: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training over all resumes, from the images and their rate."""
    total, before = 0.0, 0.0
    for entry in entries:
        images, rate = entry.get("images"), entry.get("images_per_second")
        if not isinstance(images, int | float):
            continue
        if isinstance(rate, int | float) and rate > 0:
            total += max(0.0, images - before) / rate
        before = images
    return total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(run: Summary) -> list[str]:
    size = f"{run.size / 1e9:.1f} GB" if run.size >= 1e9 else f"{run.size / 1e6:.1f} MB"
    return [
        str(run.folder),
        run.status,
        f"{run.update}/{run.updates or '?'}",
        "-" if run.loss is None else f"{run.loss:.4g}",
        run.best or "-",
        duration(run.seconds) if run.seconds else "-",
        size,
        datetime.fromtimestamp(run.written).strftime("%Y-%m-%d %H:%M"),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns; a path is never broken."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def comparison(folders: Sequence[Path]) -> Iterator[str]:
    """The lines of a comparison: settings that differ, losses at common updates, last metrics."""
    if len(folders) < 2:
        line = command_line("runs", COMPARE, "runs/A", "runs/B")
        raise ValueError(f"{COMPARE} wants two or more run folders: {line}")
    names = [str(folder) for folder in folders]
    trees = [flatten(to_tree(_settings_of(folder))) for folder in folders]
    keys = [key for key in dict.fromkeys(key for tree in trees for key in tree) if key != "name"]
    odd = [key for key in keys if len({str(tree.get(key, "-")) for tree in trees}) > 1]
    table = [[key, *(str(tree.get(key, "-")) for tree in trees)] for key in odd]
    yield "settings that differ" if odd else "settings: no difference"
    yield from aligned([["", *names], *table]) if odd else ()

    metrics = [list(lines(folder / METRICS)) for folder in folders]
    for curve in CURVES:
        values = [
            {e["update"]: e[curve] for e in run if _is_number(e.get(curve))} for run in metrics
        ]
        common = sorted(set.intersection(*map(set, values)))
        if common:
            yield ""
            yield f"{curve} at common updates"
            rows = [[str(u), *(f"{run[u]:.4g}" for run in values)] for u in spread(common, ROWS)]
            yield from aligned([["", *names], *rows])

    # The last value of every other metric; rates and probes are told by the names of curves.
    last = [{k: v for entry in run for k, v in entry.items() if _is_number(v)} for run in metrics]
    finals = sorted({key for run in last for key in run if key.startswith(("val/", "eval/"))})
    rows = [[k, *(f"{r[k]:.4g}" if k in r else "-" for r in last)] for k in ["update", *finals]]
    yield ""
    yield "last values"
    yield from aligned([["", *names], *rows])


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
