"""Sections of settings that the training of a flow and that of a codec share, and their checks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pathline.config.pick import Pick
from pathline.config.values import Problem
from pathline.dtypes import Dtype
from pathline.ranges import (
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Range,
    Share,
    ShareBelowOne,
)


@dataclass(frozen=True)
class About:
    """What a preset is for and what it gave; your own run may leave it alone."""

    purpose: str = "your own settings"  # one line for `pathline config list`
    expect: str = "not yet run"  # what a run of it measured
    time: str = ""  # how long that took
    device: str = ""  # on what, or what it is meant for


@dataclass(frozen=True)
class Images:
    """Which images, and what is done to them before anything is learnt."""

    # Where images and captions come from.
    source: Pick = field(default_factory=lambda: Pick("digits"))
    # Side in pixels; images are cropped square and scaled to size × size.
    size: Annotated[int, Range(1, 2**14)] = 32
    channels: Literal[1, 3] = 3  # 1 grey, 3 colour
    holdout: ShareBelowOne = 0.0  # share of the images kept for validation
    flip: bool = False  # mirror every other image, before it is encoded
    max_bad: Share = 0.01  # largest share of unreadable images; above it the run stops
    memory_gb: PositiveFloat = 8.0  # decoded images beyond this size are kept on disk


@dataclass(frozen=True)
class Training:
    """How long, how many at once, and what is written how often."""

    updates: Positive = 10_000  # optimizer steps
    batch: Positive = 128  # images per update, over all ranks and accumulation
    clip: NotNegativeFloat = 1.0  # largest gradient norm; 0: no clipping
    precision: Literal["auto", Dtype] = "auto"  # of autocast; auto: bf16 where it is faster
    trackers: tuple[str, ...] = ()  # in addition to metrics.jsonl: trackio, wandb, tensorboard
    log_every: Positive = 50  # updates between lines of metrics
    validate_every: NotNegative = 1000  # updates; 0: never
    sample_every: NotNegative = 1000  # updates between sample grids; 0: never
    save_every: Positive = 1000  # updates between checkpoints
    keep_recent: Positive = 2  # newest checkpoints that are kept
    keep_every: NotNegative = 0  # updates; checkpoints kept for good; 0: none


def value_at(record: Any, place: str) -> Any:
    """The value of a dotted key."""
    for part in place.split("."):
        record = getattr(record, part)
    return record


def picks_at(record: Any, places: Iterable[str]) -> dict[str, Pick]:
    """The rows that are chosen at these places."""
    return {place: value_at(record, place) for place in places}


def check_record(
    run: Any, relations: Iterable[tuple[str, str]], optional: Mapping[str, tuple[str, ...]]
) -> list[Problem]:
    """All that is wrong with a run whose values are each in their range, by dotted key.

    relations: of fields with one another. optional: places where the row may be `auto`, and the
    options it may have there.
    """
    wrong = (*relations, *_automatic(run, optional), *_name(run.name))
    return [Problem(key, message) for key, message in wrong]


def unreached(run: Any) -> list[str]:
    """Sentences on what a training of so few updates ends before.

    Averages of the weights need none: their decay rises with the updates (training/ema.py). What is
    done every so many updates is done after the last one, too.
    """
    updates, warmup = run.train.updates, run.schedule.options.get("warmup", 0)
    if warmup < updates:
        return []
    return [
        f"schedule.warmup={warmup} is wrong for train.updates={updates} because the learning rate "
        f"is still rising at the last update. Set schedule.warmup={updates // 20}, or more updates."
    ]


def _automatic(run: Any, optional: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for place, allowed in optional.items():
        chosen = value_at(run, place)
        for key in chosen.options if chosen.name == "auto" else ():
            if key not in allowed:
                yield f"{place}.{key}", f"is no option of 'auto'; name a row first, {place}=…"
    has_images = run.data.source.options.get("path") or getattr(run.data, "cache", "")
    if run.data.source.name == "auto" and not has_images:
        yield "data.source", "is auto, which needs your images: set data.source.path=FOLDER."


def _name(name: str) -> Iterator[tuple[str, str]]:
    if not name or "/" in name or name in (".", ".."):
        yield "name", f"is the name of the run's folder and cannot be {name!r}."
