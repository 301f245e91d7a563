"""Scores of a run's images, or of a folder's, against real ones: what `pathline eval` prints."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pathline.config.pick import Pick
from pathline.console import tracked
from pathline.evaluation import reference as references
from pathline.evaluation import shared_sampling as sampling
from pathline.evaluation import sweep as sweeps
from pathline.evaluation.adherence import is_scenes, scene_scores
from pathline.evaluation.score import (
    Scorer,
    available_metrics,
    check_count,
    check_metric,
    prepare_scorer,
    score,
    score_diversity,
)
from pathline.evaluation.training_images import (
    Reference,
    random_rows,
    training_items,
    training_reference,
)
from pathline.hints import command_line
from pathline.parts import Parts
from pathline.runs import folder as runs
from pathline.runs.sampling import checked_sampler, full_keys, parts_of, split_words
from pathline.training.distributed import place
from pathline.types import Item

DEFAULT_N = 1000  # images of a run
OPTIONS = ("reference", "seed", "sweep", "size", "device", "out")


class Task(NamedTuple):
    """What all comparisons of one command share."""

    features: list[Pick]
    metric: str
    seed: int
    device: torch.device
    console: Console


class Request(NamedTuple):
    """What is scored against what, as a person asks for it; see `pathline eval`."""

    what: Path
    words: Sequence[str] = ()
    reference: Path | None = None
    n: int | None = None
    seed: int = 0
    feature: Sequence[str] = ()
    metric: str | None = None
    sweep: Sequence[str] = ()
    size: int | None = None
    flags: Mapping[str, Any] = {}  # options of sampling by their setting's name, None if not set


def measure(request: Request, device: torch.device, console: Console) -> list[dict[str, Any]]:
    """The results of every comparison; empty on other processes than the first."""
    # words are settings of sampling, of features or of the evaluation, and paths
    settings, paths = split_words(request.words)
    groups = sweeps.sort_settings(settings)
    full_keys(groups.sampling, OPTIONS)
    real = _read_reference_path(paths, request.reference)
    for path in (request.what, *([real] if real else [])):
        references.refuse_missing(path)
    opened = _open(request.what, console) if references.is_run(request.what) else None
    defaults = sweeps.eval_settings(opened, groups.evaluation)
    features = sweeps.read_features(request.feature, groups.options) or [defaults.feature]
    task = Task(features, request.metric or defaults.metric, request.seed, device, console)
    n = request.n
    if n is None and any(text.startswith("eval.n=") for text in groups.evaluation):
        n = defaults.n

    # a run is sampled with its own settings; a folder takes none
    if opened:
        variants = sweeps.read_variants(opened, request.sweep, groups.sampling, request.flags)
        count = DEFAULT_N if n is None else n
        return _score_run(opened, variants, real, count, request.size, task)
    _check_no_sampling({**request.flags, "sweep": request.sweep or None}, groups.sampling)
    return _score_folder(request.what, real, n, request.size, task)


def _open(path: Path, console: Console) -> runs.Opened:
    return runs.open_run(path, lambda text: console.print(f"warning: {text}"))


def _read_reference_path(paths: Sequence[str], reference: Path | None) -> Path | None:
    if len(paths) + (reference is not None) > 1:
        raise ValueError("Give the real images once: as the second folder or as --reference.")
    return Path(paths[0]) if paths else reference


def _check_no_sampling(flags: Mapping[str, Any], settings: Sequence[str]) -> None:
    names = [f"--{key.partition('.')[0]}" for key, value in flags.items() if value is not None]
    if names := [*names, *settings]:
        raise ValueError(f"{names[0]} is for sampling from a run, and this is a folder of images.")


def _score_run(
    opened: runs.Opened,
    variants: list[sweeps.Variant],
    real: Path | None,
    n: int,
    size: int | None,
    task: Task,
) -> list[dict[str, Any]]:
    """Sample and score each variant; results on the first process, empty on the others."""
    check_count(n, "sampled")
    if size is not None and real is None:
        raise ValueError("--size is for folders; a run's images have the size of the run.")
    # Everything is checked before the first image is sampled.
    for variant in variants:
        _check_ema(opened.run.train.ema, variant)
    parts, _ = parts_of(opened, ema=variants[0].ema, device=task.device)
    for variant in variants:
        checked_sampler(parts, variant.sample)

    # real images and prompts come from the run's own data
    run, data = references.reread_data(opened, parts, task.console)
    facts = parts.facts
    reference = training_reference(run, data, n, task.seed)
    if real:
        reference = references.read_reference(
            real, facts.height, facts.channels, n, task.seed, task.console
        )
    items = training_items(run, data, n, task.seed)
    scenes = is_scenes(items, facts.height, facts.width)
    scorers = _prepare_scorers(task, reference, n)
    if reference.names != facts.names:  # its labels mean other classes
        scorers = [scorer._replace(labels=None) for scorer in scorers]
    metrics = [name for scorer in scorers for name in available_metrics(scorer, run, scenes)]
    check_metric(task.metric, metrics)

    results = []
    for number, variant in enumerate(variants, start=1):
        parts, weights = parts_of(opened, ema=variant.ema, device=task.device)
        label = f"sampling {number} of {len(variants)}" if len(variants) > 1 else "sampling"
        scores = _score_variant(parts, variant, items, scorers, scenes, task, label)
        results.append(
            _describe(opened, variant, weights)
            | {"n": n, "seed": task.seed, "reference": reference.name}
            | {"setting": variant.setting, "metric": task.metric}
            | scores
        )
    return results


def _score_variant(
    parts: Parts,
    variant: sweeps.Variant,
    items: Sequence[Item],
    scorers: Sequence[Scorer],
    scenes: bool,
    task: Task,
    label: str,
) -> dict[str, Any]:
    progress = partial(tracked, task=label, console=task.console)
    sampler = checked_sampler(parts, variant.sample)
    sample = sampling.shared_sampler(
        parts, sampler, variant.sample.batch, nullcontext, progress=progress
    )
    images = sample(items, [task.seed + index for index in range(len(items))])
    repeats = sampling.sample_repeats(sample, items, task.seed + len(items))
    adherence = {"adherence": scene_scores(sample, len(items), task.seed)} if scenes else {}
    # The other ranks have sampled their share; one scores them all.
    if place()[0]:
        return {}
    features = [score(scorer, images, items, task.seed) for scorer in scorers]
    for scorer, result in zip(scorers, features, strict=True):
        result["scores"] |= score_diversity(scorer, repeats)
    return {"features": features, **adherence}


def _prepare_scorers(task: Task, reference: Reference, n: int) -> list[Scorer]:
    return [prepare_scorer(pick, reference, n, task.seed, task.device) for pick in task.features]


def _check_ema(decays: Sequence[float], variant: sweeps.Variant) -> None:
    if variant.ema and variant.ema not in decays:
        raise ValueError(
            f"ema={variant.ema} is wrong because this run keeps no such EMA. Give one of "
            f"{list(decays)}, or 0 for no EMA."
        )


def _describe(opened: runs.Opened, variant: sweeps.Variant, weights: str) -> dict[str, Any]:
    sample = variant.sample
    return {
        "what": str(opened.folder),
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
        "steps": sample.steps,
        "solver": sample.solver.name,
        "grid": sample.grid.name,
        "guidance": {"name": sample.guidance.name, **sample.guidance.options},
    }


def _score_folder(
    what: Path, real: Path | None, n: int | None, size: int | None, task: Task
) -> list[dict[str, Any]]:
    """A folder of sampled images against a folder or the training data of a run."""
    if real is None:
        raise ValueError(
            f"{what} is no run; to score a folder of images, give the real ones too, a folder or "
            f"a run: {command_line('eval', what, '--reference', 'REAL')}"
        )
    console, seed = task.console, task.seed
    opened = _open(real, console) if references.is_run(real) else None
    channels = opened.facts.channels if opened else 3
    own_size = opened.facts.height if opened and size is None else size
    images = references.load_folder(what, channels, console, size=own_size, scale=size is not None)
    count, side = len(images.pixels), images.pixels.shape[-1]
    reference = references.read_reference(real, side, channels, count, seed, console)
    check_count(count if n is None else n, "sampled")
    if n is not None and n > count:
        raise ValueError(f"--n {n} is more than the {count} images of {what}.")
    rows = random_rows(count, n or count, seed)  # some scores take parts, of any order
    items = references.class_labels(images, opened, rows)
    features = [
        score(scorer, images.pixels[rows], items, seed)
        for scorer in _prepare_scorers(task, reference, len(rows))
    ]
    about = {"what": str(what), "n": len(rows), "seed": seed, "reference": reference.name}
    return [about | {"setting": {}, "metric": task.metric, "features": features}]
