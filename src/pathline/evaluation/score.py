"""Scores of sampled images, for `pathline eval` and for the evaluations of a training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.evaluation.feature_cache import cache_folder, embed_cached
from pathline.evaluation.training_images import REPEATS, Reference, random_rows
from pathline.hints import listing, nearest
from pathline.metrics.clip_score import conditional_accuracy
from pathline.metrics.feature import Extractor, Feature
from pathline.metrics.features import FEATURES
from pathline.metrics.manifold import cmmd, diversity, inception_score, nearest_ratio
from pathline.metrics.scores import baseline, cautions, measure
from pathline.text.table import reads_of
from pathline.types import Item

FRECHET_NAMES = ("fid", "fd", "frechet")  # accepted for the Fréchet distance by any feature
LOWER = ("kid", "cmmd")  # metrics besides the Fréchet distance of which less is better
HIGHER = (
    *("precision", "recall", "density", "coverage"),
    *("accuracy", "inception_score", "clip_score", "adherence"),
)
LEAST_HELD = 50  # held-out images; a distance to fewer is mostly their own scatter


class Scorer(NamedTuple):
    """An extractor of features, and those of the reference images."""

    extractor: Extractor
    options: Mapping[str, Any]  # of the extractor, as they were set
    feature: Feature
    device: torch.device
    real: Tensor  # [N D]
    held: Tensor | None  # [M D]
    labels: Tensor | None  # [N]; None too where they mean other classes than the run's
    baseline: dict[str, float]  # scores of two random halves of the reference
    baseline_n: int  # images in each half


def prepare_scorer(
    feature: Pick, reference: Reference, n: int, seed: int, device: torch.device
) -> Scorer:
    """Embed the reference images and score random halves of them against each other.

    n: images that will be sampled; the halves have as many, where there are 2·n.
    Raises ValueError for fewer than 2 images.
    """
    check_count(n, "sampled")
    check_count(len(reference.pixels), f"reference ({reference.name})")
    build = bind(FEATURES, feature, "feature")
    extractor = FEATURES[feature.name]
    built = build(reference.pixels, reference.labels, device)
    # Features of a pretrained network alone are cached: others depend on the reference.
    folder = cache_folder() if extractor.is_pretrained else None
    real = embed_cached(built, reference.pixels, folder)
    held = None if reference.held is None else embed_cached(built, reference.held, folder)
    scorer = Scorer(extractor, feature.options, built, device, real, held, reference.labels, {}, 0)

    # what a perfect model would score: real images against other real ones
    both = real[random_rows(len(real), min(2 * n, len(real)), seed)]
    halves = _rename(extractor, baseline(both, seed=seed)) if len(both) > 3 else {}
    if halves and extractor.has_cmmd:
        halves["cmmd"] = cmmd(both[: len(both) // 2], both[len(both) // 2 :])
    return scorer._replace(baseline=halves, baseline_n=len(both) // 2)


def score(scorer: Scorer, images: Tensor, items: Sequence[Item], seed: int) -> dict[str, Any]:
    """All scores of sampled images by one feature, next to those of real images.

    items: the class or caption that each image was sampled for; empty where that is unknown.
    """
    feature = scorer.feature
    features = feature.embed(images)
    n = len(features)
    # As many real images as sampled ones, on whose number a Fréchet distance depends.
    real = scorer.real[random_rows(len(scorer.real), min(n, len(scorer.real)), seed)]
    notes = cautions(real, features)
    if scorer.baseline_n < n:
        notes.append(
            f"the baseline (real against real) has {scorer.baseline_n} images in each set, not "
            f"{n}: its Fréchet distance would be lower at equal n"
        )
    scores = _score_sets(scorer, real, features, seed) | _score_items(scorer, images, items, notes)
    result: dict[str, Any] = {
        "feature": feature.name,
        "frechet_name": scorer.extractor.frechet_name,
        "width": feature.width,
        "note": feature.note,
        "reference_n": len(real),
        "scores": scores,
        "baseline": scorer.baseline,
        "baseline_n": scorer.baseline_n,
        "cautions": notes,
    }
    held = scorer.real[:0] if scorer.held is None else scorer.held
    few = min(len(held), n)  # sets of unequal size can't be compared
    if few >= LEAST_HELD:
        distances = _score_sets(scorer, held[:few], features[:few], seed)
        result |= {"held_out": distances, "held_out_n": few}
    elif few:
        notes.append(
            f"no distance to held-out pictures: {few} are too few, it needs {LEAST_HELD} or more "
            "of them and of generated images"
        )
    if len(held) >= LEAST_HELD:
        scores |= _score_memorisation(scorer, held, features, notes)
    return result


def _rename(extractor: Extractor, scores: dict[str, float]) -> dict[str, float]:
    """The scores with the Fréchet distance called by its feature: FID, FD-pca, …"""
    names = {"frechet": extractor.frechet_name}
    return {names.get(name, name): value for name, value in scores.items()}


def _score_sets(scorer: Scorer, real: Tensor, features: Tensor, seed: int) -> dict[str, float]:
    scores = _rename(scorer.extractor, measure(real, features, seed=seed))
    return scores | {"cmmd": cmmd(real, features)} if scorer.extractor.has_cmmd else scores


def _score_items(
    scorer: Scorer, images: Tensor, items: Sequence[Item], notes: list[str]
) -> dict[str, float]:
    """Whether the images show their class or caption, and look like some class."""
    extractor = scorer.extractor
    captions = [item for item in items if isinstance(item, str)]
    if extractor.score_captions and len(captions) == len(images):
        result = extractor.score_captions(images, captions, scorer.device, **scorer.options)
        notes.append(
            f"clip_score is by {result.name}; it cut {result.cut} captions at its longest length"
        )
        return {"clip_score": result.mean}
    if scorer.feature.logits is None:
        return {}
    logits = scorer.feature.logits(images)
    scores = {"inception_score": inception_score(logits, splits=min(10, len(logits))).mean}
    # Accuracy needs the classes that the classifier was trained on.
    labels = [item for item in items if isinstance(item, int)]
    if _scores_labels(scorer) and len(labels) == len(images):
        scores["accuracy"] = conditional_accuracy(logits, torch.tensor(labels))
    return scores


def _scores_labels(scorer: Scorer) -> bool:
    return scorer.extractor.has_reference_classes and scorer.labels is not None


def _score_memorisation(
    scorer: Scorer, held: Tensor, features: Tensor, notes: list[str]
) -> dict[str, float]:
    """How near sampled images are to training images; not defined for sets with repeats."""
    try:
        return {"nearest_ratio": nearest_ratio(scorer.real, held, features)}
    except ValueError as reason:
        notes.append(f"nearest_ratio is left out: {reason}")
        return {}


def score_diversity(scorer: Scorer, images: Mapping[Item, Tensor]) -> dict[str, float]:
    """Mean diversity of each item's images; for classes, that of as many real images too."""
    embed = scorer.feature.embed
    scores = {"diversity": _mean([diversity(embed(pixels)) for pixels in images.values()])}
    rows = [_rows_of_item(scorer, item) for item in images]
    if all(len(of_item) > 1 for of_item in rows):
        scores["diversity_real"] = _mean([diversity(scorer.real[of_item]) for of_item in rows])
    return scores


def _rows_of_item(scorer: Scorer, item: Item) -> Tensor:
    """Up to REPEATS reference images of a class, or of any for None; none for a caption."""
    if item is None:
        return random_rows(len(scorer.real), min(REPEATS, len(scorer.real)), 0)
    if isinstance(item, str) or scorer.labels is None:
        return torch.arange(0)
    return (scorer.labels == item).nonzero().flatten()[:REPEATS]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def available_metrics(scorer: Scorer, run: Run, scenes: bool) -> list[str]:
    """The metrics that can rank this run's images by this feature. scenes: captions of scenes."""
    reads = reads_of(run.text.name)
    is_available = {
        "accuracy": _scores_labels(scorer) and reads == "labels",
        "inception_score": scorer.feature.logits is not None,
        "cmmd": scorer.extractor.has_cmmd,
        "clip_score": bool(scorer.extractor.score_captions) and reads in ("words", "captions"),
        "adherence": scenes,
    }
    names = (scorer.extractor.frechet_name, *LOWER, *HIGHER)
    return [name for name in names if is_available.get(name, True)]


def metric_name(name: str, frechet_name: str) -> str:
    """The metric as results have it: fid, fd and frechet are the feature's Fréchet distance."""
    is_frechet = name.lower() in (*FRECHET_NAMES, frechet_name.lower())
    return frechet_name if is_frechet else name.lower()


def is_lower_better(metric: str) -> bool:
    """Whether less of a metric is better, by its name in results."""
    return metric in LOWER or metric.startswith(("FID", "FD-"))


def check_metric(name: str, available: Iterable[str]) -> None:
    """Raises ValueError for a metric that is not available, with the nearest name."""
    names = (*FRECHET_NAMES, *dict.fromkeys(available))
    if name not in names and name.lower() not in map(str.lower, names):
        raise ValueError(
            f"metric={name} is wrong because there is no such metric for this run and feature."
            f"{nearest(name, names)} There are: {listing(names)}."
        )


def check_count(count: int, kind: str) -> None:
    """Raises ValueError below 2 images."""
    if count < 2:
        raise ValueError(
            f"{count} {kind} image{'s' * (count != 1)}: a set of images is scored from 2 on, and "
            "the scores mean something from hundreds on."
        )
