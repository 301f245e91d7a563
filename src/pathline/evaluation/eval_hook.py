"""Score a run while it trains, and keep its best checkpoint."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pathline.config.run import Run
from pathline.console import Say
from pathline.evaluation.adherence import is_scenes
from pathline.evaluation.score import (
    Scorer,
    available_metrics,
    check_metric,
    is_lower_better,
    metric_name,
    prepare_scorer,
    score,
)
from pathline.evaluation.shared_sampling import SampleFn, shared_sampler
from pathline.evaluation.training_images import training_items, training_reference
from pathline.files import write_whole
from pathline.generate import Autocast
from pathline.metrics.scenes import adherence
from pathline.parts import Parts
from pathline.runs.dataset import Dataset
from pathline.runs.folder import BEST
from pathline.runs.sampling import checked_sampler, sampling_ema
from pathline.training import checkpoint
from pathline.training.distributed import from_first_rank, place
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Track
from pathline.types import Item


class Best(NamedTuple):
    """The content of the file `best` of a run folder."""

    update: int
    metric: str
    value: float
    method: str  # feature, n, seed, steps and weights; other methods' values can't be compared


class Evaluation(NamedTuple):
    """All that an evaluation of a training needs besides its weights."""

    run: Run
    player: Player
    ema: Ema
    scorer: Scorer
    metric: str  # by which the best checkpoint is kept, as results have it
    items: list[Item]
    sample: SampleFn
    scenes: bool  # the items are captions of scenes
    method: str


def prepare_evaluation(
    run: Run, parts: Parts, data: Dataset, player: Player, autocast: Autocast, say: Say
) -> Evaluation | None:
    """All that the evaluations of a training need; None with eval.every=0.

    Raises ValueError, before anything is trained, for what this run can't be scored by.
    """
    if not run.eval.every:
        return None
    ema, sample = sampling_ema(run, player.emas), run.sample
    sampler = checked_sampler(parts, sample)
    device = next(player.network.parameters()).device
    n, seed = run.eval.n, run.seed
    # What images are compared with, and how, is decided before training.
    reference = training_reference(run, data, n, seed)
    scorer = prepare_scorer(run.eval.feature, reference, n, seed, device)
    items = training_items(run, data, n, seed)
    scenes = is_scenes(items, parts.facts.height, parts.facts.width)
    check_metric(run.eval.metric, available_metrics(scorer, run, scenes))
    # The method is part of the result: values measured otherwise are not compared.
    guidance = " ".join(map(str, (sample.guidance.name, *sample.guidance.options.values())))
    method = f"{scorer.feature.name}, n {n}, seed {seed}, {_title(ema)}, {sample.solver.name}, "
    method += f"{sample.steps} steps, {sample.grid.name} grid, guidance {guidance}"
    _print_baseline(scorer, method, n, say)
    return Evaluation(
        run,
        player,
        ema,
        scorer,
        metric_name(run.eval.metric, scorer.extractor.frechet_name),
        items,
        shared_sampler(parts, sampler, sample.batch, autocast),
        scenes,
        method,
    )


def _title(ema: Ema) -> str:
    return f"EMA {ema.name.removeprefix('ema-')}"


def eval_hook(
    evaluation: Evaluation | None,
    folder: Path,
    track: Track,
    save: Callable[[Progress], Any],
    say: Say,
) -> Iterator[Hook]:
    """Sample and score every `eval.every` updates, log `eval/…`, keep the best checkpoint.

    save: writes the checkpoint of an update that turns out best, to its last byte, if it is not
    there yet. The hook is for every process; the first scores.
    """
    if evaluation is None:
        return
    # The same noise at every evaluation.
    seeds = [evaluation.run.seed + index for index in range(len(evaluation.items))]

    def evaluate(progress: Progress, _: Reports) -> None:
        with evaluation.ema.lent_to(evaluation.player.network):
            images = evaluation.sample(evaluation.items, seeds)
        evaluation.player.network.train()
        # One process scores; all need the value, to agree on whether it is the best.
        value = from_first_rank(lambda: _score(evaluation, images, progress, track))
        best = Best(progress.update, evaluation.metric, value, evaluation.method)
        if math.isnan(value):
            say(
                f"eval: {best.metric} is not defined with eval.n={evaluation.run.eval.n}, so no "
                "checkpoint is the best by it: raise eval.n, or set another eval.metric"
            )
        if from_first_rank(lambda: _is_best(folder, best)):
            _keep_best(folder, best, lambda: save(progress), say)

    yield every(evaluation.run.eval.every, evaluate, last=evaluation.run.train.updates)


def _score(evaluation: Evaluation, images: Tensor, progress: Progress, track: Track) -> float:
    """Score and log; the value of the metric that the best checkpoint is kept by."""
    metric = evaluation.metric
    scores = score(evaluation.scorer, images, evaluation.items, evaluation.run.seed)["scores"]
    if evaluation.scenes:
        scores["adherence"] = adherence(images, [str(item) for item in evaluation.items]).mean
    baseline = evaluation.scorer.baseline
    baseline = {f"baseline_{metric}": baseline[metric]} if metric in baseline else {}
    values = {f"eval/{name}": value for name, value in (scores | baseline).items()}
    track(progress.update, progress.images, values)
    return scores.get(metric, math.nan)


def _print_baseline(scorer: Scorer, method: str, n: int, say: Say) -> None:
    if n < scorer.feature.width:
        say(
            f"warning: eval.n={n} is below the {scorer.feature.width} dimensions of "
            f"{scorer.feature.name}: the Fréchet distance is biased upwards"
        )
    baseline = ", ".join(f"{name} {value:.4g}" for name, value in scorer.baseline.items())
    say(f"eval: {method}; real against real: {baseline or 'too few images'}")


def best_of(folder: Path) -> Best | None:
    """The best checkpoint of a run folder so far; pruning must leave it alone."""
    if not (folder / BEST).is_file():
        return None
    try:
        path, line, method = (folder / BEST).read_text("utf-8").splitlines()
        metric, value = line.split()
        return Best(int(path.rpartition("step-")[2]), metric, float(value), method)
    except ValueError:
        raise ValueError(
            f"{folder / BEST} can't be read. Delete it; the next evaluation writes it."
        ) from None


def is_better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old`; NaN never does."""
    return new < old if is_lower_better(metric) else new > old


def _is_best(folder: Path, now: Best) -> bool:
    """Whether no earlier evaluation by the same method was better."""
    old = best_of(folder)
    # a later update's best was written by a branch that a resume dropped
    is_comparable = old and (old.metric, old.method) == (now.metric, now.method)
    if old is None or not is_comparable or old.update >= now.update:
        return not math.isnan(now.value)
    return is_better(now.metric, now.value, old.value)


def _keep_best(folder: Path, best: Best, save: Callable[[], Any], say: Say) -> None:
    """Save first, then name it: a kill between the two leaves the former best in place."""
    saved = folder / "checkpoints" / checkpoint.name(best.update) / checkpoint.MANIFEST
    if not from_first_rank(saved.is_file):
        save()
    if place()[0] or not saved.is_file():  # the disk was full, which was printed
        return
    path = f"checkpoints/{checkpoint.name(best.update)}"
    try:
        write_whole(folder / BEST, f"{path}\n{best.metric} {best.value!r}\n{best.method}\n")
    except OSError as error:
        say(f"the best, update {best.update}, was not named in {folder / BEST}: {error}")
        return
    say(f"best so far: update {best.update}, {best.metric} {best.value:.4g}")
