"""`pathline eval`: a run's pictures, or a folder's, measured against real ones."""

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

from pathline.assemble import Parts, sampler
from pathline.config.pick import Pick
from pathline.config.run import Run
from pathline.data.decoded import Pictures
from pathline.evaluation import report as results
from pathline.evaluation.adherence import is_scenes, scene_scores
from pathline.evaluation.reference import (
    data_again,
    is_run,
    pictures_in,
    reference_of,
    refuse_other_sizes,
)
from pathline.evaluation.score import (
    Judge,
    Reference,
    asked_of,
    diversities,
    drawer,
    judge,
    known_metrics,
    refuse_few,
    refuse_metric,
    same_prompt,
    score,
    some,
    training_pictures,
)
from pathline.evaluation.sweep import Way, features_of, is_feature, ways_of
from pathline.generate import check_sampler
from pathline.runs import folder as runs
from pathline.training.device import pick_device
from pathline.training.distributed import joined, place

PLAIN = 160  # columns of a table that no terminal shows
DRAWN = 1000  # pictures of a run, where --n is not given


class Task(NamedTuple):
    """What every comparison has in common."""

    features: list[Pick]
    metric: str
    seed: int
    device: torch.device
    console: Console


def evaluate(
    what: Path,
    other: Path | None = None,
    /,
    *,
    reference: Path | None = None,
    n: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    ema: float | None = None,
    feature: Sequence[str] = (),
    metric: str | None = None,
    sweep: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    set: Sequence[str] = (),
    batch: int | None = None,
    size: int | None = None,
    device: str = "auto",
    out: Path | None = None,
    json: bool = False,
    debug: bool = False,
) -> int:
    """Measure a run's pictures, or a folder of pictures, against real ones.

    Parameters
    ----------
    what:
        A run folder, one of its checkpoints, "latest", or a folder of drawn pictures.
    other:
        The real pictures, when `what` is a folder; the same as --reference.
    reference:
        A folder of real pictures, or a run whose training data they are. By default the run's own.
    n:
        Pictures drawn, 1000 by default; of a folder as many as there are.
    seed:
        Of the first picture and of every random choice.
    steps:
        Solver steps.
    solver:
        euler, heun, midpoint, unipc2, … (`pathline config list sample.solver`).
    guidance:
        Scale of the guidance; 1 is none.
    ema:
        Which average of the weights; 0 for the weights themselves.
    feature:
        What pictures are compared by (`pathline config list eval.feature`); may be given again.
    metric:
        The one that a sweep is ranked by: frechet, kid, precision, recall, coverage, accuracy, …
    sweep:
        Axes such as guidance=1,1.5,2 steps=4,8,20: every combination is measured.
    set:
        Further sampling settings, such as --set grid=edm, and a feature's options, such as
        --set pca.width=32.
    batch:
        Pictures drawn at once.
    size:
        Cut the pictures of folders square and scale them to so many pixels.
    device:
        auto, cpu, cuda, cuda:1, mps.
    out:
        Folder of the results; by default RUN/eval, for folders none.
    json:
        Print the results as JSON and nothing else.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    strategy = "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    with joined(strategy, pick_device(device)) as (_, chosen):
        width = None if Console().is_terminal else PLAIN
        console = Console(stderr=json, quiet=place()[0] > 0, width=width)
        options = [text for text in set if is_feature(text)]
        task = Task(features_of(feature, options), metric or "", seed, chosen, console)
        flags = {"steps": steps, "solver": solver, "guidance": guidance, "batch": batch}
        if other and reference:
            raise ValueError("Give the real pictures once: as the second folder or as --reference.")
        real = reference or other
        if is_run(what):
            further = [text for text in set if text not in options]
            opened = runs.open_run(what, lambda text: console.print(f"warning: {text}"))
            ways = ways_of(opened, sweep, flags | {"ema": ema}, further)
            found = _of_run(opened, ways, real, DRAWN if n is None else n, size, task)
            out = out or opened.folder / "eval"
        else:
            _refuse_drawing(flags | {"ema": ema, "sweep": sweep or None})
            found = _of_folder(what, real, n, size, task)
        if place()[0] == 0:
            results.tell(found, out, console, as_json=json)
    return 0


def _refuse_drawing(flags: dict[str, Any]) -> None:
    if given := [key for key, value in flags.items() if value is not None]:
        raise ValueError(f"--{given[0]} is for a run, which draws; a folder's pictures are there.")


def _of_run(
    opened: runs.Opened, ways: list[Way], real: Path | None, n: int, size: int | None, task: Task
) -> list[dict[str, Any]]:
    """Draw and measure each way in turn; results on the first process, empty on the others."""
    refuse_few(n, "drawn")
    if size is not None and real is None:
        raise ValueError("--size is for folders; a run's pictures have the size of the run.")
    parts, _ = runs.parts_of(opened, ema=ways[0].ema, device=task.device)
    for way in ways:
        check_sampler(parts, sampler(way.sample, parts.path))
        _refuse_ema(opened.run, way)
    run, data = data_again(opened, parts, task.console)
    height, width = parts.facts.height, parts.facts.width
    ref = training_pictures(run, data, n, task.seed)
    if real:
        ref = reference_of(real, height, parts.facts.channels, n, task.seed, task.console)
    items = asked_of(run, data, n, task.seed)
    scenes = is_scenes(items, height, width)
    judges = _judges(task, ref, n, run)
    if ref.names != parts.facts.names:  # its labels mean other classes
        judges = [judged._replace(labels=None) for judged in judges]
    known = {name for judged in judges for name in known_metrics(judged, run, scenes)}
    refuse_metric(task.metric or run.eval.metric, known)

    found = []
    for number, way in enumerate(ways, start=1):
        parts, weights = runs.parts_of(opened, ema=way.ema, device=task.device)
        told = f"drawing {number} of {len(ways)}" if len(ways) > 1 else "drawing"
        one = _measured(parts, way, items, judges, scenes, task, told)
        about = _about(opened, way, weights) | {"n": n, "seed": task.seed, "reference": ref.name}
        metric = task.metric or run.eval.metric
        found.append(about | {"setting": way.setting, "ranked_by": metric} | one)
    return found


def _measured(parts: Parts, way: Way, items, judges, scenes: bool, task: Task, told: str):
    def walk(turns: Sequence[slice]) -> Iterator[slice]:
        hidden = not task.console.is_terminal or place()[0] > 0
        yield from track(turns, told, console=task.console, disable=hidden, transient=True)

    draws = sampler(way.sample, parts.path)
    draw = drawer(parts, draws, way.sample.batch, nullcontext, walk=walk)
    drawn = draw(items, [task.seed + index for index in range(len(items))])
    sets = same_prompt(draw, items, task.seed + len(items))
    adherence = {"adherence": scene_scores(draw, len(items), task.seed)} if scenes else {}
    if place()[0]:
        return {}
    found = [score(judged, drawn, items, task.seed) for judged in judges]
    for judged, one in zip(judges, found, strict=True):
        one["scores"] |= diversities(judged, sets)
    return {"features": found, **adherence}


def _judges(task: Task, ref: Reference, n: int, run: Run | None) -> list[Judge]:
    picks = task.features or [run.eval.feature if run else Pick("pca")]
    return [judge(pick, ref, n, task.seed, task.device) for pick in picks]


def _refuse_ema(run: Run, way: Way) -> None:
    if way.ema and way.ema not in run.train.ema:
        raise ValueError(
            f"This run keeps no EMA {way.ema}; there are {list(run.train.ema)}, or 0 for no EMA."
        )


def _about(opened: runs.Opened, way: Way, weights: str) -> dict[str, Any]:
    sample = way.sample
    return {
        "what": str(opened.folder),
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
        "steps": sample.steps,
        "solver": sample.solver.name,
        "grid": sample.grid.name,
        "guidance": {"name": sample.guidance.name, **sample.guidance.options},
    }


def _of_folder(
    what: Path, real: Path | None, n: int | None, size: int | None, task: Task
) -> list[dict[str, Any]]:
    """A folder of drawn pictures against a folder or the training data of a run."""
    if real is None:
        raise ValueError(
            f"{what} is no run; to measure a folder of pictures, give the real ones too: "
            f"pathline eval {what} --reference FOLDER (or a run)."
        )
    console = task.console
    opened = runs.open_run(real, console.print) if is_run(real) else None
    channels = opened.facts.channels if opened else 3
    if size is None:
        size = opened.facts.height if opened else None
        refuse_other_sizes(what, size)
    pictures = pictures_in(what, channels, console, size=size)
    count = len(pictures.pixels)
    ref = reference_of(real, pictures.pixels.shape[-1], channels, count, task.seed, console)
    refuse_few(count if n is None else n, "drawn")
    if n is not None and n > count:
        raise ValueError(f"{what} has {count} pictures; --n {n} asks for more.")
    rows = some(count, n or count, task.seed)  # in no order: scores that take parts are of any
    items = _labels(pictures, opened, rows)
    found = [
        score(judged, pictures.pixels[rows], items, task.seed)
        for judged in _judges(task, ref, len(rows), None)
    ]
    about = {"what": str(what), "n": len(rows), "seed": task.seed, "reference": ref.name}
    return [about | {"setting": {}, "features": found}]


def _labels(pictures: Pictures, opened: runs.Opened | None, rows: torch.Tensor) -> list[int]:
    """Which class each picture shows, where its folders are named as the run's classes."""
    if opened is None or pictures.labels is None or pictures.names != opened.facts.names:
        return []
    return pictures.labels[rows].tolist()
