"""What a run is: every setting with its default. Records only; `problems` checks the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pathline.config.pick import Pick, pick
from pathline.config.sections import About, Images, Training, check_record, picks_at
from pathline.config.values import Problem, convert, shown
from pathline.ranges import (
    AtLeastOne,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PowerLength,
    Range,
    Seed,
    Share,
    ShareBelowOne,
)

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
class Buckets:
    """Sizes of images that keep their aspect ratio; each has about data.size² pixels."""

    # Long side / short side; 1: square ones only.
    max_ratio: Annotated[float, Range(1, 100)] = 1.0
    multiple: NotNegative = 0  # pixels that divide both sides; 0: as few as codec and patch allow
    upscale: AtLeastOne = 1.25  # factor by which an image may be enlarged
    small: Literal["refuse", "keep"] = "refuse"  # images that would need more


@dataclass(frozen=True)
class Tags:
    """What is done to captions that are lists of tags; prose stays as it is.

    Arranged when a cache is made; without a cache as they are read, with text=words only.
    """

    variants: NotNegative = 0  # arrangements of each list, which share its weight; 0: as written
    # Order of the tags: as in the caption, or danbooru's (persons, character, … rating).
    order: Literal["given", "danbooru"] = "given"
    shuffle: bool = True  # shuffle the tags behind the first `keep`
    keep: NotNegative = 1  # first tags that are neither shuffled nor dropped
    dropout: Share = 0.0  # share of the other tags that is left out
    underscores: Literal["keep", "spaces"] = "spaces"  # in tags: keep them, or write spaces


@dataclass(frozen=True)
class Data(Images):
    """Which images and captions, and what is done to them before training."""

    missing_captions: Literal["refuse", "null"] = "refuse"  # null: such an image has no condition
    # auto: what is stored with the images; filenames: red_circle-03.png is "red circle".
    captions: Literal["auto", "filenames"] = "auto"
    trigger: str = ""  # a word put before every caption; it stands alone where there is none
    # Folder -> how often its images come in an epoch; weights such as 0.5 lengthen the epoch.
    repeats: dict[str, Annotated[float, Range(0, 1000)]] = field(default_factory=dict)
    # A folder made by `pathline preprocess`; latents and text states are read from it.
    cache: str = ""
    buckets: Buckets = Buckets()
    tags: Tags = Tags()
    # Weights by which an image's first, second, … caption is chosen; (): all alike.
    caption_weights: tuple[NotNegativeFloat, ...] = ()


@dataclass(frozen=True)
class Train(Training):
    """How long, how many at once, and what is written how often."""

    accumulate: Positive = 1  # forward passes per update
    compile: bool = False  # torch.compile the network
    strategy: Literal["none", "ddp", "fsdp2"] = "none"  # for several processes
    ema: tuple[ShareBelowOne, ...] = (0.999,)  # decays; samples use the first
    power_ema: tuple[PowerLength, ...] = ()  # relative lengths of averages that others combine
    # Seconds until a first sample grid, where sample_every is later; 0: none.
    first_sample: NotNegativeFloat = 60.0
    probe_every: NotNegative = 200  # updates between measurements of gradients; 0: never
    snapshot_every: Positive = 1000  # updates between snapshots of the power averages


@dataclass(frozen=True)
class Sample:
    """How images are sampled: in training, and by `pathline generate` unless it sets another."""

    # The ODE or SDE solver's step.
    solver: Pick = field(default_factory=lambda: Pick("euler"))
    # How the steps are spread over time.
    grid: Pick = field(default_factory=lambda: Pick("uniform"))
    # How conditional and unconditional predictions are combined.
    guidance: Pick = field(default_factory=lambda: pick("cfg", scale=1.0))
    # Of backbone=ddt: which steps reuse the encoder's output.
    sharing: Pick = field(default_factory=lambda: Pick("none"))
    steps: Annotated[int, Range(1, 10_000)] = 25  # of the solver, from noise to image
    # Decay of the average that samples; null: the first of train.ema.
    ema: ShareBelowOne | None = None
    batch: Positive = 64  # images sampled at once
    count: Positive = 16  # images in a sample grid
    # Prompts or class names of sample grids in training, or a text file of them; (): of the data.
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Eval:
    """Measuring samples during training."""

    every: NotNegative = 0  # updates; 0: never during training
    n: Positive = 500  # images sampled for it
    # The features that Fréchet distance compares.
    feature: Pick = field(default_factory=lambda: Pick("pca"))
    metric: str = "frechet"  # by which the best checkpoint is kept


@dataclass(frozen=True)
class Run:
    """One run: data × codec × text × backbone × objective × terms × optimizer, by name."""

    name: str = "run"  # of the run's folder
    # Of a training on your own pictures: which of the presets own-… the other settings are from.
    # auto: the largest whose training takes at most 20 minutes on this machine.
    size: Literal["auto", "small", "medium", "large"] = "auto"
    about: About = field(default_factory=About)
    seed: Seed = 0  # of initial weights, noise and order
    device: str = "auto"  # where it runs: auto, cpu, cuda, cuda:1, mps
    init: str = ""  # a run or checkpoint whose weights a new training begins with
    data: Data = Data()
    # Pixels to latents and back; pixel: none.
    codec: Pick = field(default_factory=lambda: Pick("pixel"))
    # What makes the condition of captions or labels; auto: what the data has.
    text: Pick = field(default_factory=lambda: Pick("auto"))
    # The frozen image encoder for terms.alignment.
    vision: Pick = field(default_factory=lambda: Pick("none"))
    # The network.
    backbone: Pick = field(default_factory=lambda: Pick("dit"))
    # What is learnt.
    objective: Pick = field(default_factory=lambda: Pick("flow"))
    # Loss terms by name: a weight, or a mapping of weight and options.
    terms: dict[str, NotNegativeFloat | dict] = field(default_factory=lambda: {"mse": 1.0})
    # How noise and data are interpolated.
    path: Pick = field(default_factory=lambda: Pick("straight"))
    # The distribution of t in training.
    times: Pick = field(default_factory=lambda: Pick("logit_normal"))
    # How noise and data of a batch are paired.
    coupling: Pick = field(default_factory=lambda: Pick("independent"))
    # The optimizer, with its learning rate.
    optimizer: Pick = field(default_factory=lambda: Pick("adamw"))
    # Learning rate over the training.
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


def picks_of(run: Run) -> dict[str, Pick]:
    """Every Pick of the run by its place, loss terms as "terms.<name>"."""
    rows = {f"terms.{name}": _term(name, value) for name, value in run.terms.items()}
    return picks_at(run, [place for place in PLACES if place != "terms"]) | rows


def problems(run: Run) -> list[Problem]:
    """What is wrong with a run though each of its values alone is right."""
    return check_record(run, (*_data(run.data), *_averages(run), *_terms(run)), AUTO)


def _weight(value: float | dict) -> Any:
    return value.get("weight", 1.0) if isinstance(value, dict) else value


def _term(name: str, value: float | dict) -> Pick:
    options = value if isinstance(value, dict) else {}
    return Pick(name, {key: option for key, option in options.items() if key != "weight"})


def _data(data: Data) -> Iterator[tuple[str, str]]:
    weights = data.caption_weights
    if weights and not weights[0]:
        yield "data.caption_weights", f"={shown(weights)} is wrong because its first weight is 0."


def _averages(run: Run) -> Iterator[tuple[str, str]]:
    train, sample = run.train, run.sample
    if train.batch % train.accumulate:
        near = max(train.batch // train.accumulate, 1) * train.accumulate
        yield (
            "train.batch",
            f"{train.batch} is no multiple of train.accumulate {train.accumulate}. "
            f"Nearest: {near} or {near + train.accumulate}.",
        )
    # Sampling reads an average, so there must be one.
    if not train.ema:
        yield "train.ema", "=[] is wrong because samples use its first decay. Set e.g. 0.999."
    if sample.ema is not None and sample.ema not in train.ema:
        yield (
            "sample.ema",
            f"{sample.ema} is not averaged: train.ema is {list(train.ema)}. Take one of these "
            "or null.",
        )
    for key, lengths in (("ema", train.ema), ("power_ema", train.power_ema)):
        if len(set(lengths)) != len(lengths):
            yield f"train.{key}", f"names one twice: {list(lengths)}."


def _terms(run: Run) -> Iterator[tuple[str, str]]:
    for key, value in run.terms.items():
        try:
            convert(_weight(value), NotNegativeFloat)
        except ValueError as error:
            yield f"terms.{key}.weight", f"={error}"
    if not any(_weight(value) for value in run.terms.values()):
        yield "terms", "wants at least one loss term of non-zero weight."
