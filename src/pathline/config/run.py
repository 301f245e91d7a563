"""What a run is: every setting with its default. Records only; `problems` checks the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pathline.config.layers import Problem
from pathline.config.pick import Pick, pick
from pathline.config.values import convert
from pathline.dtypes import Dtype

# Where a Pick stands -> what a row of its table is called in messages.
PLACES = {
    "data.source": "data source",
    "codec": "codec",
    "text": "text encoder",
    "vision": "vision encoder",
    "backbone": "backbone",
    "objective": "objective",
    "terms": "loss term",
    "path": "path",
    "times": "time draw",
    "coupling": "coupling",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "sample.solver": "solver step",
    "sample.grid": "grid",
    "sample.guidance": "guidance",
    "sample.sharing": "encoder sharing",
    "eval.feature": "feature",
}
# Places where `auto` lets the data decide, and the options it may carry.
AUTO = {"data.source": ("path",), "text": ()}


@dataclass(frozen=True)
class About:
    """What a preset is for and what it gave; a user's own run may leave it alone."""

    purpose: str = "your own settings"
    expect: str = "not yet run"
    time: str = "not yet run"
    device: str = "not yet run"


@dataclass(frozen=True)
class Buckets:
    """Sizes of pictures that keep their shape; each has about data.size² pixels."""

    max_ratio: float = 1.0  # long side by short side; 1: square ones only
    multiple: int = 0  # pixels that divide both sides; 0: as few as codec and patch allow
    upscale: float = 1.25  # how far a picture may be enlarged
    small: Literal["refuse", "keep"] = "refuse"  # those that would need more


@dataclass(frozen=True)
class Tags:
    """What becomes of captions that are lists of tags; prose stays.

    Arranged when a cache is made; without one as they are read, for text=words alone.
    """

    variants: int = 0  # arrangements of each list, which share its weight; 0: as written
    order: Literal["given", "danbooru"] = "given"  # danbooru: persons, character, … rating
    shuffle: bool = True
    keep: int = 1  # the first so many are neither shuffled nor dropped
    dropout: float = 0.0  # share of the others that is left out
    underscores: Literal["keep", "spaces"] = "spaces"


@dataclass(frozen=True)
class Data:
    source: Pick = field(default_factory=lambda: Pick("digits"))
    size: int = 32  # pictures are cut square and scaled to size × size
    channels: int = 3  # 1 grey, 3 colour
    holdout: float = 0.0  # share of the pictures kept for validation
    flip: bool = False  # mirror every other picture, before it is encoded
    max_bad: float = 0.01  # largest share of unreadable pictures
    missing_captions: Literal["refuse", "null"] = "refuse"
    memory_gb: float = 8.0  # decoded pictures above this lie on disk
    cache: str = ""  # a folder that `pathline preprocess` made; the data is taken from there
    buckets: Buckets = Buckets()  # of pathline preprocess, as tags are
    tags: Tags = Tags()
    caption_weights: tuple[float, ...] = ()  # of a picture's first, second, … caption; (): alike


@dataclass(frozen=True)
class Train:
    updates: int = 10_000
    batch: int = 128  # pictures an update, over all ranks and accumulation
    accumulate: int = 1  # forward passes an update
    clip: float = 1.0  # largest gradient norm; 0: none
    precision: Literal["auto", Dtype] = "auto"
    compile: bool = False
    strategy: Literal["none", "ddp", "fsdp2"] = "none"
    ema: tuple[float, ...] = (0.999,)  # decays; the first is drawn from
    power_ema: tuple[float, ...] = ()  # relative lengths of averages to rebuild others from
    trackers: tuple[str, ...] = ()  # beside metrics.jsonl: trackio, wandb, tensorboard
    log_every: int = 50  # updates, here and below
    probe_every: int = 200  # 0: never
    snapshot_every: int = 1000  # of the power averages
    validate_every: int = 1000  # 0: never
    sample_every: int = 1000  # 0: never
    save_every: int = 1000
    keep_recent: int = 2  # checkpoints
    keep_every: int = 0  # updates; 0: none are kept for good


@dataclass(frozen=True)
class Sample:
    solver: Pick = field(default_factory=lambda: Pick("euler"))
    grid: Pick = field(default_factory=lambda: Pick("uniform"))
    guidance: Pick = field(default_factory=lambda: pick("cfg", scale=1.0))
    sharing: Pick = field(default_factory=lambda: Pick("none"))  # of a ddt's encoder
    steps: int = 25
    ema: float | None = None  # null: the first of train.ema
    batch: int = 64  # pictures drawn at once
    count: int = 16  # pictures of the grid drawn while training


@dataclass(frozen=True)
class Eval:
    every: int = 0  # updates; 0: never while training
    n: int = 500  # pictures drawn
    feature: Pick = field(default_factory=lambda: Pick("pca"))
    metric: str = "frechet"  # by which the best checkpoint is kept


@dataclass(frozen=True)
class Run:
    """One run: data × codec × text × backbone × objective × terms × optimizer, by name."""

    name: str = "run"
    about: About = About()
    seed: int = 0
    device: str = "auto"
    init: str = ""  # a run or a checkpoint whose weights a new training begins with
    data: Data = Data()
    codec: Pick = field(default_factory=lambda: Pick("pixel"))
    text: Pick = field(default_factory=lambda: Pick("auto"))
    vision: Pick = field(default_factory=lambda: Pick("none"))  # for terms.alignment
    backbone: Pick = field(default_factory=lambda: Pick("dit"))
    objective: Pick = field(default_factory=lambda: Pick("flow"))
    terms: dict[str, float | dict] = field(default_factory=lambda: {"mse": 1.0})
    path: Pick = field(default_factory=lambda: Pick("straight"))
    times: Pick = field(default_factory=lambda: Pick("logit_normal"))
    coupling: Pick = field(default_factory=lambda: Pick("independent"))
    optimizer: Pick = field(default_factory=lambda: Pick("adamw"))
    schedule: Pick = field(default_factory=lambda: Pick("cosine"))
    train: Train = Train()
    sample: Sample = Sample()
    eval: Eval = Eval()


def terms_of(run: Run) -> dict[str, tuple[float, Pick]]:
    """Every loss term of non-zero weight: name -> (weight, row with its options)."""
    return {
        name: (float(_weight(value)), _term(name, value))
        for name, value in run.terms.items()
        if _weight(value)
    }


def push_of(run: Run) -> float:
    """Weight of the contrastive term by that of mse; 0 where guidance has nothing to take back.

    Negatives of another class have a mean of their own for each class: they count as nothing.
    """
    terms = terms_of(run)
    if "contrastive" not in terms or "mse" not in terms:
        return 0.0
    weight, row = terms["contrastive"]
    apart = convert(row.options.get("apart", False), bool)
    return 0.0 if apart else weight / terms["mse"][0]


def picks_of(run: Run) -> dict[str, Pick]:
    """Every Pick of the run by its place, loss terms as "terms.<name>"."""
    places = [place for place in PLACES if place != "terms"]
    rows = {f"terms.{name}": _term(name, value) for name, value in run.terms.items()}
    return {place: _at(run, place) for place in places} | rows


def problems(run: Run) -> list[Problem]:
    """Every number that cannot be, with what it would have to be."""
    found = [Problem(key, message) for key, message in _ranges(run)]
    return found + [Problem(key, message) for key, message in _relations(run)]


def _weight(value: float | dict) -> Any:
    return value.get("weight", 1.0) if isinstance(value, dict) else value


def _term(name: str, value: float | dict) -> Pick:
    options = value if isinstance(value, dict) else {}
    return Pick(name, {key: option for key, option in options.items() if key != "weight"})


def _at(record: Any, place: str) -> Any:
    for part in place.split("."):
        record = getattr(record, part)
    return record


POSITIVE = (
    *("data.size", "data.memory_gb", "train.updates", "train.batch", "train.accumulate"),
    *("train.log_every", "train.save_every", "train.keep_recent"),
    *("sample.steps", "sample.batch", "sample.count"),
    *("train.snapshot_every", "eval.n"),
)
NOT_NEGATIVE = (
    "seed",
    "train.clip",
    "train.validate_every",
    "train.sample_every",
    "train.keep_every",
    "train.probe_every",
    "eval.every",
)
SHARES = ("data.max_bad",)
LONGEST = 0.2886  # relative length of the mean over a whole run


def _ranges(run: Run) -> Iterator[tuple[str, str]]:
    for key in POSITIVE:
        if _at(run, key) <= 0:
            yield key, f"must be above 0, got {_at(run, key)}."
    for key in NOT_NEGATIVE:
        if _at(run, key) < 0:
            yield key, f"must not be negative, got {_at(run, key)}."
    for key in SHARES:
        if not 0 <= _at(run, key) <= 1:
            yield key, f"is a share and lies in [0, 1], got {_at(run, key)}."
    if not 0 <= run.data.holdout < 1:
        yield "data.holdout", f"is a share and lies in [0, 1), got {run.data.holdout}."
    if run.data.channels not in (1, 3):
        yield "data.channels", f"is 1 (grey) or 3 (colour), got {run.data.channels}."
    if not 0 <= run.data.tags.dropout <= 1 or run.data.tags.keep < 0 or run.data.tags.variants < 0:
        yield "data.tags", "wants a dropout in [0, 1], keep and variants of 0 or more."
    weights = run.data.caption_weights
    if weights and (min(weights) < 0 or not weights[0] > 0):
        yield "data.caption_weights", f"wants a first one above 0, none below, got {list(weights)}."
    for length in run.train.power_ema:
        if not 0 < length <= LONGEST:
            yield "train.power_ema", f"wants lengths above 0 and up to {LONGEST}, got {length}."
    if not run.train.ema or not all(0 <= decay < 1 for decay in run.train.ema):
        yield "train.ema", f"wants one or more decays in [0, 1), got {list(run.train.ema)}."


def _relations(run: Run) -> Iterator[tuple[str, str]]:
    train, sample = run.train, run.sample
    if train.accumulate > 0 and train.batch % train.accumulate:
        near = max(train.batch // train.accumulate, 1) * train.accumulate
        yield (
            "train.batch",
            f"{train.batch} is no multiple of train.accumulate {train.accumulate}. "
            f"Nearest: {near} or {near + train.accumulate}.",
        )
    if sample.ema is not None and sample.ema not in train.ema:
        kept = list(train.ema)
        yield (
            "sample.ema",
            f"{sample.ema} is not kept: train.ema is {kept}. Take one of these or null.",
        )
    for key, kept in (("ema", train.ema), ("power_ema", train.power_ema)):
        if len(set(kept)) != len(kept):
            yield f"train.{key}", f"names one twice: {list(kept)}."
    for key, value in run.terms.items():
        weight = _weight(value)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            yield f"terms.{key}.weight", f"wants a number, got {weight!r}."
    if not any(_weight(value) for value in run.terms.values()):
        yield "terms", "wants at least one loss term of non-zero weight."
    for place, allowed in AUTO.items():
        chosen = _at(run, place)
        for key in chosen.options if chosen.name == "auto" else ():
            if key not in allowed:
                yield f"{place}.{key}", f"is no option of 'auto'; name a row first, {place}=…"
    named = run.data.cache or run.data.source.options.get("path")
    if run.data.source.name == "auto" and not named:
        yield "data.source", "is left to your folder, but none is named: give its path."
    if not run.name or "/" in run.name or run.name in (".", ".."):
        yield "name", f"names the run's folder and cannot be {run.name!r}."
