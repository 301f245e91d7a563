"""Draw and judge: what `pathline eval` and the looks at a run while it trains have in common."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.assemble import Parts, Sampler
from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.evaluation.feature_cache import LONG, cache, embedded
from pathline.generate import Autocast, sample_images
from pathline.hints import listing, nearest
from pathline.metrics.clip_score import clip_score, conditional_accuracy
from pathline.metrics.features import Feature
from pathline.metrics.manifold import cmmd, diversity, inception_score, nearest_ratio
from pathline.metrics.scores import baseline, cautions, measure
from pathline.runs.dataset import Data
from pathline.tables import TABLES
from pathline.text.table import reads_of
from pathline.training.distributed import gathered, place

Item = str | int | None
Draw = Callable[[Sequence[Item], Sequence[int]], Tensor]  # items, seeds -> uint8 [n c h w]
Walk = Callable[[Sequence[slice]], Iterable[slice]]  # shows how far a loop has come

DECODED = ", as its codec gives them back"
SHARES = 8  # batches that pictures are drawn in at least, so that processes can share them
MOST = 10_000  # reference pictures looked at, unless more are drawn
FIXED, TIMES = 4, 16  # prompts that diversity is looked at with, and pictures of each
LOWER = ("frechet", "kid", "cmmd")  # the less the better
HIGHER = (  # the more the better
    *("precision", "recall", "density", "coverage"),
    *("accuracy", "inception_score", "clip_score", "adherence"),
)


class Reference(NamedTuple):
    """Real pictures to compare with."""

    name: str
    pixels: Tensor  # uint8 [N c h w]
    labels: Tensor | None = None  # [N]
    held: Tensor | None = None  # uint8 [M c h w], never trained on
    names: tuple[str, ...] = ()  # of the classes


class Judge(NamedTuple):
    """A feature, and the reference as it sees it."""

    chosen: Pick
    feature: Feature
    device: torch.device
    real: Tensor  # [N D]
    held: Tensor | None  # [M D]
    labels: Tensor | None  # [N]; None too where they mean other classes than the run's
    baseline: dict[str, float]  # of two random halves of the reference
    baseline_n: int  # pictures of each half


def draw_shared(
    draw: Draw, items: Sequence[Item], seeds: Sequence[int], *, batch: int, walk: Walk = iter
) -> Tensor:
    """All pictures, on every process, each having drawn its share of the batches.

    The batches are the same for any number of processes, and so are the pictures, to the bit. Every
    process draws equally often, as sharded weights demand: what is left over is drawn twice and
    counted once.
    """
    batch = min(batch, math.ceil(len(items) / SHARES))
    parts = [slice(start, start + batch) for start in range(0, len(items), batch)]
    rank, world = place()
    turns = range(math.ceil(len(parts) / world))
    mine = [parts[min(turn * world + rank, len(parts) - 1)] for turn in turns]
    drawn = [draw(items[part], seeds[part]) for part in walk(mine)]
    everyone = gathered(drawn)
    return torch.cat([everyone[at % world][at // world] for at in range(len(parts))])


def drawer(
    parts: Parts,
    draws: Sampler,
    batch: int,
    autocast: Autocast,
    *,
    walk: Walk = iter,
) -> Draw:
    """The way from items and seeds to pictures of these parts, shared among processes."""

    def one(items: Sequence[Item], seeds: Sequence[int]) -> Tensor:
        return sample_images(parts, items, seeds, draws, batch=batch, autocast=autocast)

    return partial(draw_shared, one, batch=batch, walk=walk)


def asked_of(run: Run, data: Data, n: int, seed: int) -> list[Item]:
    """The labels or captions of n random training pictures; None for anything."""
    rows = data.train[some(len(data.train), n, seed)].tolist()
    if reads_of(run.text.name) == "labels":
        assert data.labels is not None
        return data.labels[rows].tolist()
    captions = data.captions
    if reads_of(run.text.name) == "nothing" or captions is None:
        return [None] * n
    return [captions[row] for row in rows]


def some(count: int, n: int, seed: int) -> Tensor:
    """n of `count` rows at random, none twice before all were taken."""
    rng = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=rng) for _ in range(math.ceil(n / count))]
    return torch.cat(rounds)[:n]


def training_pictures(run: Run, data: Data, n: int, seed: int) -> Reference:
    """The run's training and held-out pictures; of many a random part, enough to judge n by."""
    most = max(MOST, 2 * n)  # the baseline takes two sets of n
    train, held = (of_one_size(data, rows) for rows in (data.train, data.held))
    rows = train[some(len(train), min(most, len(train)), seed)]
    labels, held = data.labels, held[:most]
    pixels = data.pixels(rows)
    height, width = pixels.shape[2:]
    sized = "" if data.bucket is None else f", of {height}x{width} alone, the commonest size"
    return Reference(
        f"training pictures of {run.name}{DECODED if run.data.cache else ''}{sized}",
        pixels,
        None if labels is None else labels[rows],
        data.pixels(held) if len(held) > 1 else None,
        data.names,
    )


def of_one_size(data: Data, rows: Tensor) -> Tensor:
    """The rows of the commonest size; all where there is one."""
    if data.bucket is None or not len(rows):
        return rows
    return rows[data.bucket[rows] == torch.bincount(data.bucket).argmax()]  # as facts tell it


def refuse_few(count: int, what: str) -> None:
    """Raises ValueError below 2 pictures."""
    if count < 2:
        raise ValueError(
            f"{count} {what} picture{'s' * (count != 1)}: a set of pictures is measured from 2 on, "
            "and the numbers mean something from hundreds on."
        )


def refuse_metric(name: str, known: Iterable[str]) -> None:
    """Raises ValueError that names the nearest metric."""
    known = tuple(known)
    if name not in known:
        raise ValueError(
            f"There is no metric called {name!r} here.{nearest(name, known)} "
            f"There are: {listing(known)}."
        )


def judge(chosen: Pick, ref: Reference, n: int, seed: int, device: torch.device) -> Judge:
    """Embed the reference with the chosen feature; measure halves of it against each other.

    n: pictures that will be drawn; the baseline's halves have as many, where there are 2·n.
    Raises ValueError for fewer than 2 pictures.
    """
    refuse_few(n, "drawn")
    refuse_few(len(ref.pixels), f"reference ({ref.name})")
    feature = bind(TABLES["eval.feature"], chosen, "feature")(ref.pixels, ref.labels, device)
    folder = cache() if chosen.name in LONG else None
    real = embedded(feature, ref.pixels, folder)
    held = None if ref.held is None else embedded(feature, ref.held, folder)
    both = real[some(len(real), min(2 * n, len(real)), seed)]
    halves = baseline(both, seed=seed) if len(both) > 3 else {}
    if halves and chosen.name == "clip":
        halves["cmmd"] = cmmd(both[: len(both) // 2], both[len(both) // 2 :])
    return Judge(chosen, feature, device, real, held, ref.labels, halves, len(both) // 2)


def score(judged: Judge, drawn: Tensor, items: Sequence[Item], seed: int) -> dict[str, Any]:
    """What the feature says of drawn pictures, beside what it says of real ones.

    items: the class or caption that each picture was asked for; empty where that is unknown.
    """
    name, width, embed, note, _ = judged.feature
    seen = embed(drawn)
    real = judged.real[some(len(judged.real), min(len(seen), len(judged.real)), seed)]
    said = cautions(real, seen)
    if judged.baseline_n < len(seen):
        said.append(
            f"real against real is of {judged.baseline_n} pictures each, too few for {len(seen)}: "
            "its Fréchet distance would be lower at equal n"
        )
    scores = _of_sets(judged, real, seen, seed) | _of_items(judged, drawn, items, said)
    found: dict[str, Any] = {
        "feature": name,
        "width": width,
        "note": note,
        "reference_n": len(real),
        "scores": scores,
        "baseline": judged.baseline,
        "baseline_n": judged.baseline_n,
        "cautions": said,
    }
    if judged.held is not None:
        few = min(len(judged.held), len(seen))  # sets of unequal size can't be compared
        held = _of_sets(judged, judged.held[:few], seen[:few], seed)
        found |= {"held_out": held, "held_out_n": few}
        scores |= _memorised(judged, seen, said)
    return found


def _of_sets(judged: Judge, real: Tensor, drawn: Tensor, seed: int) -> dict[str, float]:
    found = measure(real, drawn, seed=seed)
    return found | {"cmmd": cmmd(real, drawn)} if judged.chosen.name == "clip" else found


def _of_items(
    judged: Judge, drawn: Tensor, items: Sequence[Item], said: list[str]
) -> dict[str, float]:
    """Whether the pictures show what was asked for, and look like something."""
    logits, labels = judged.feature.logits, [item for item in items if isinstance(item, int)]
    captions = [item for item in items if isinstance(item, str)]
    if judged.chosen.name == "clip" and len(captions) == len(drawn):
        found = clip_score(drawn, captions, judged.device, **judged.chosen.options)
        said.append(f"clip_score is by {found.name}; {found.cut} captions are longer than it hears")
        return {"clip_score": found.mean}
    if logits is None:
        return {}
    told = logits(drawn)
    scores = {"inception_score": inception_score(told, splits=min(10, len(told))).mean}
    knows = judged.chosen.name == "classifier" and judged.labels is not None
    if knows and len(labels) == len(drawn):
        scores["accuracy"] = conditional_accuracy(told, torch.tensor(labels))
    return scores


def _memorised(judged: Judge, drawn: Tensor, said: list[str]) -> dict[str, float]:
    """How near drawn pictures are to training pictures; a set with repeats can't tell."""
    assert judged.held is not None
    try:
        return {"nearest_ratio": nearest_ratio(judged.real, judged.held, drawn)}
    except ValueError as reason:
        said.append(f"nearest_ratio is left out: {reason}")
        return {}


def same_prompt(draw: Draw, items: Sequence[Item], seed: int) -> dict[Item, Tensor]:
    """TIMES pictures for each of the first FIXED different items, from seeds of their own."""
    asked = list(dict.fromkeys(items))[:FIXED]
    many = [item for item in asked for _ in range(TIMES)]
    pixels = draw(many, [seed + index for index in range(len(many))])
    return dict(zip(asked, pixels.split(TIMES), strict=True))


def diversities(judged: Judge, sets: dict[Item, Tensor]) -> dict[str, float]:
    """Mean diversity within a prompt's pictures; for classes, that of as many real ones too."""
    embed = judged.feature.embed
    found = {"diversity": _mean([diversity(embed(pixels)) for pixels in sets.values()])}
    rows = [_rows_of(judged, item) for item in sets]
    if all(len(each) > 1 for each in rows):
        found["diversity_real"] = _mean([diversity(judged.real[each]) for each in rows])
    return found


def _rows_of(judged: Judge, item: Item) -> Tensor:
    """Up to TIMES reference pictures of a class, or of any for None; none for a caption."""
    if item is None:
        return some(len(judged.real), min(TIMES, len(judged.real)), 0)
    if isinstance(item, str) or judged.labels is None:
        return torch.arange(0)
    return (judged.labels == item).nonzero().flatten()[:TIMES]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def known_metrics(judged: Judge, run: Run, scenes: bool) -> list[str]:
    """The metrics that can rank this run's pictures by this feature. scenes: captioned ones."""
    is_clip = judged.chosen.name == "clip"
    given = {
        "accuracy": judged.chosen.name == "classifier"
        and judged.labels is not None
        and reads_of(run.text.name) == "labels",
        "inception_score": judged.feature.logits is not None,
        "cmmd": is_clip,
        "clip_score": is_clip and reads_of(run.text.name) in ("words", "captions"),
        "adherence": scenes,
    }
    return [name for name in (*LOWER, *HIGHER) if given.get(name, True)]
