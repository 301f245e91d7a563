"""Measure a run while it trains, and keep its best checkpoint."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pathline.assemble import Parts, sampler
from pathline.config.run import Run
from pathline.evaluation.adherence import is_scenes
from pathline.evaluation.score import (
    LOWER,
    Draw,
    Item,
    Judge,
    asked_of,
    drawer,
    judge,
    known_metrics,
    refuse_metric,
    score,
    training_pictures,
)
from pathline.generate import Autocast, check_sampler
from pathline.metrics.scenes import adherence
from pathline.runs.dataset import Data
from pathline.runs.folder import BEST
from pathline.training import checkpoint
from pathline.training.distributed import first_says, place
from pathline.training.ema import Ema
from pathline.training.hooks import every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Track

Say = Callable[[str], None]


class Best(NamedTuple):
    """What the file `best` of a run folder says."""

    update: int
    metric: str
    value: float
    how: str  # feature, n, seed, steps and weights; values got otherwise can't be compared


class Exam(NamedTuple):
    """All that a look at a run needs but its weights."""

    run: Run
    player: Player
    ema: Ema
    judged: Judge
    items: list[Item]
    draw: Draw
    scenes: bool  # the items are captions of scenes
    how: str


def exam_of(
    run: Run, parts: Parts, data: Data, player: Player, autocast: Autocast, say: Say
) -> Exam | None:
    """Make ready to measure a run while it trains; None where it is not asked for.

    Raises ValueError, before anything is trained, for what this run can't be measured by.
    """
    if not run.eval.every:
        return None
    wanted = run.train.ema[0] if run.sample.ema is None else run.sample.ema
    ema = next(ema for ema in player.emas if ema.name == f"ema-{wanted}")
    draws, sample = sampler(run.sample, parts.path), run.sample
    check_sampler(parts, draws)
    device = next(player.network.parameters()).device
    n, seed = run.eval.n, run.seed
    judged = judge(run.eval.feature, training_pictures(run, data, n, seed), n, seed, device)
    items = asked_of(run, data, n, seed)
    scenes = is_scenes(items, parts.facts.height, parts.facts.width)
    refuse_metric(run.eval.metric, known_metrics(judged, run, scenes))
    guidance = " ".join(map(str, (sample.guidance.name, *sample.guidance.options.values())))
    how = f"{judged.feature.name}, n {n}, seed {seed}, EMA {wanted}, {sample.solver.name}, "
    how += f"{sample.steps} steps, {sample.grid.name} grid, guidance {guidance}"
    _introduce(judged, how, n, say)
    draw = drawer(parts, draws, sample.batch, autocast)
    return Exam(run, player, ema, judged, items, draw, scenes, how)


def eval_hook(
    exam: Exam | None, folder: Path, track: Track, save: Callable[[Progress], Any], say: Say
) -> Iterator[Hook]:
    """Draw and measure every `eval.every` updates, log `eval/…`, keep the best checkpoint.

    save: writes the checkpoint of an update that turns out best, to its last byte, if it is not
    there yet. The hook is for every process; the first measures.
    """
    if exam is None:
        return
    seeds = [exam.run.seed + index for index in range(len(exam.items))]

    def look(progress: Progress, _: Reports) -> None:
        with exam.ema.lent_to(exam.player.network):
            drawn = exam.draw(exam.items, seeds)
        exam.player.network.train()
        value = first_says(lambda: _measured(exam, drawn, progress, track))
        best = Best(progress.update, exam.run.eval.metric, value, exam.how)
        if math.isnan(value):
            say(
                f"eval: {best.metric} is unknown with eval.n={exam.run.eval.n}, so no checkpoint "
                "is the best by it: raise eval.n, or take another eval.metric"
            )
        if first_says(lambda: _is_best(folder, best)):
            _keep(folder, best, lambda: save(progress), say)

    yield every(exam.run.eval.every, look, last=exam.run.train.updates)


def _measured(exam: Exam, drawn: Tensor, progress: Progress, track: Track) -> float:
    """Measure and log; the value of the metric that chooses."""
    metric = exam.run.eval.metric
    scores = score(exam.judged, drawn, exam.items, exam.run.seed)["scores"]
    if exam.scenes:
        scores["adherence"] = adherence(drawn, [str(item) for item in exam.items]).mean
    baseline = {f"baseline_{k}": v for k, v in exam.judged.baseline.items() if k == metric}
    values = {f"eval/{name}": value for name, value in (scores | baseline).items()}
    track(progress.update, progress.images, values)
    return scores.get(metric, math.nan)


def _introduce(judged: Judge, how: str, n: int, say: Say) -> None:
    if n < judged.feature.width:
        say(
            f"warning: eval.n={n} is below the {judged.feature.width} numbers of "
            f"{judged.feature.name}: the Fréchet distance is biased upwards"
        )
    real = ", ".join(f"{name} {value:.4g}" for name, value in judged.baseline.items())
    say(f"eval: {how}; real against real: {real or 'too few pictures'}")


def best_of(folder: Path) -> Best | None:
    """The best checkpoint of a run folder so far; pruning must leave it alone."""
    if not (folder / BEST).is_file():
        return None
    try:
        where, line, how = (folder / BEST).read_text().splitlines()
        metric, value = line.split()
        return Best(int(where.rpartition("step-")[2]), metric, float(value), how)
    except ValueError:
        raise ValueError(
            f"{folder / BEST} can't be read; delete it, and the next look at the run writes it."
        ) from None


def is_better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old`; what is no number never does."""
    return new < old if metric in LOWER else new > old


def _is_best(folder: Path, now: Best) -> bool:
    """Whether nothing that can be compared was better; what a dropped branch wrote is no rival."""
    old = best_of(folder)
    if old is None or (old.metric, old.how) != (now.metric, now.how) or old.update >= now.update:
        return not math.isnan(now.value)
    return is_better(now.metric, now.value, old.value)


def _keep(folder: Path, best: Best, save: Callable[[], Any], say: Say) -> None:
    """Save first, then name it: a kill between the two leaves the former best in place."""
    saved = folder / "checkpoints" / checkpoint.name(best.update) / checkpoint.MANIFEST
    if not first_says(saved.is_file):
        save()
    if place()[0] or not saved.is_file():  # the disk was full, which was told
        return
    text = f"checkpoints/{checkpoint.name(best.update)}\n{best.metric} {best.value!r}\n{best.how}\n"
    fresh = folder / f".{BEST}.tmp"
    try:
        fresh.write_text(text)
        fresh.replace(folder / BEST)
    except OSError as error:
        say(f"the best, update {best.update}, was not named in {folder / BEST}: {error}")
        return
    say(f"best so far: update {best.update}, {best.metric} {best.value:.4g}")
