"""Settings for your own pictures: what suits them, and a size that this machine trains in time.

They become plain settings of the run, so that a resumed or repeated run measures nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, median_low
from typing import NamedTuple

import torch

from pathline.assemble import assemble
from pathline.config.ground import SIZE, YAML
from pathline.config.presets.own_pictures import OWN_PICTURES
from pathline.config.resolve import PRESETS, read
from pathline.config.run import Run
from pathline.config.yaml_io import Entry
from pathline.console import Say, duration
from pathline.data.sources.source import Source
from pathline.evaluation.timing import timed
from pathline.nn.attention import cond_to
from pathline.runs.folder import Layers
from pathline.runs.from_pictures import open_source, settle_text
from pathline.runs.methods import flow_player
from pathline.tables import TABLES
from pathline.text.learned import vocabulary
from pathline.text.table import is_frozen, reads_of
from pathline.training.device import pick_device, pick_precision
from pathline.training.distributed import launched_size
from pathline.training.players import lane_rng, update
from pathline.training.progress import count_parameters
from pathline.training.team import Placement
from pathline.types import Batch, Facts, Item

LONGEST = 20 * 60.0  # seconds of a training that is chosen without being asked for
SLOW = 4.0  # seconds of an update that is not measured again
SHOWN = 8  # names of classes in a sentence
LOOKED_AT = 32  # pictures whose size and caption decide
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # captions that mirroring makes wrong
# What the time of an update depends on, beside the batch.
COSTS = ("backbone", "objective", "codec", "terms", "vision", "coupling", "optimizer")


class Survey(NamedTuple):
    """What a sample of the pictures shows."""

    total: int  # of all pictures
    sizes: list[tuple[int, int]]  # (width, height)
    captions: list[str]
    names: tuple[str, ...]  # of the classes


class Trial(NamedTuple):
    """A size whose update was measured."""

    run: Run
    parameters: int
    seconds: float  # of an update


def fit_settings(layers: Layers, say: Say) -> Layers:
    """The layers with what suits the pictures and this machine, if a folder of them is trained on.

    Everything that was set stays. Several processes can't measure alike, so they take the largest.
    """
    what = layers.preset
    if what is None or what in PRESETS or Path(what).suffix in YAML or not Path(what).exists():
        return layers
    settings = read(*layers[:4], tables=TABLES)
    if settings.run.data.cache:
        return layers

    # What suits the pictures, then a size; both below everything that was set.
    survey = look(open_source(settings.run)[1])
    say(_describe(survey))
    layers = layers._replace(fitted=tuple(suitable(survey)))
    is_chosen = not settings.origins[SIZE].startswith("preset")
    if launched_size() > 1:
        return layers if is_chosen else _sized(layers, OWN_PICTURES[-1].size)
    if is_chosen and not _costs_like(settings.run, PRESETS[f"own-{settings.run.size}"]):
        return layers
    say("measuring an update on this machine …")
    sizes = [settings.run.size] if is_chosen else [preset.size for preset in OWN_PICTURES]
    trials = measure_sizes(layers, settings.run, survey, sizes)
    trial = next((t for t in reversed(trials) if _seconds(t) <= LONGEST), trials[0])
    layers = layers if is_chosen else _sized(layers, trial.run.size)
    _explain(read(*layers[:4], fitted=layers.fitted, tables=TABLES).run, trial, trials, say)
    return layers


def look(source: Source) -> Survey:
    """Sizes and captions of pictures spread evenly over the source, without unreadable ones."""
    sizes, captions = [], []
    count = min(LOOKED_AT, source.count)
    for row in (index * source.count // count for index in range(count)):
        try:
            example = source.read(row)
        except (ValueError, OSError):
            continue  # reported when all pictures are read
        sizes.append((example.image.shape[2], example.image.shape[1]))
        captions += [example.caption] if example.caption else []
    return Survey(source.count, sizes, captions, source.names)


def suitable(survey: Survey) -> Iterator[Entry]:
    """Settings that follow from the pictures, by key."""
    entry = partial(Entry, origin="your pictures")
    # Small pictures are not enlarged; as many tokens of fewer pixels cost the same.
    preset = OWN_PICTURES[0]
    side, patch = preset.data.size, int(preset.backbone.options["patch"])
    middle = median(min(size) for size in survey.sizes) if survey.sizes else side
    while side > 16 and middle < 0.75 * side:
        side, patch = side // 2, patch // 2
    if side < preset.data.size:
        yield entry("data.size", side)
        yield entry("backbone.patch", patch)
        yield entry("backbone.bottleneck", 0)
    # A loss of two or three held-out pictures would mean nothing.
    if survey.total < 2000:
        yield entry("data.holdout", 0.1 if survey.total >= 20 else 0.0)
    if any(SIDED.search(caption) for caption in survey.captions):
        yield entry("data.flip", False)
    if not survey.captions and not survey.names:  # guidance would compare equal predictions
        yield entry("sample.guidance.scale", 1.0)


def measure_sizes(
    layers: Layers, user_run: Run, survey: Survey, sizes: Sequence[str]
) -> list[Trial]:
    """Trials of the sizes in turn, up to the first that takes too long."""
    trials: list[Trial] = []
    device = pick_device(user_run.device)
    for size in sizes:
        fitted = _sized(layers, size).fitted
        run = read(layers.preset, fitted=fitted, tables=TABLES).run
        if not is_frozen(user_run.text.name):  # a frozen encoder's states come before the updates
            run = replace(run, text=user_run.text)
        train = replace(run.train, precision=user_run.train.precision)
        trials.append(measure_update(replace(run, train=train), survey, device))
        if _seconds(trials[-1]) > LONGEST:
            break
    return trials


def measure_update(run: Run, survey: Survey, device: torch.device) -> Trial:
    """Seconds of an update of the untrained network on noise, the better of two."""
    run = settle_text(run, survey.captions, has_classes=bool(survey.names))
    words = vocabulary(survey.captions) if reads_of(run.text.name) == "words" else ()
    data = run.data
    parts = assemble(run, Facts(data.channels, data.size, data.size, survey.names, words))
    # On a CPU the training itself finds out whether bf16 is faster still.
    setting = run.train.precision
    setting = "fp32" if (setting, device.type) == ("auto", "cpu") else setting
    player = flow_player(run, parts, Placement(device, pick_precision(setting, device)))
    # A batch of noise with conditions like those of the data.
    batch, rng = run.train.batch, lane_rng(run.seed, 0, 0, device)
    x1 = torch.randn(batch, *parts.shape(), device=device, generator=rng)
    items = parts.text.encode(_items(run, survey))
    cond, null = (cond_to(c, device) for c in (items, parts.text.null))
    lanes = [(Batch(x1, cond, null, torch.arange(batch)), rng)]
    work = partial(update, player, lanes, 0)
    first = timed(work, device)[0]
    seconds = min([first, *(timed(work, device)[0] for _ in range(3 if first < SLOW else 0))])
    return Trial(run, count_parameters(parts.network), seconds)


def _items(run: Run, survey: Survey) -> list[Item]:
    """As many captions or labels as a batch has pictures."""
    kinds: dict[str | None, Sequence[Item]] = {
        "words": survey.captions,
        "labels": range(len(survey.names)),
    }
    items = kinds.get(reads_of(run.text.name)) or [None]
    return [items[index % len(items)] for index in range(run.train.batch)]


def _sized(layers: Layers, size: str) -> Layers:
    """The layers with a size below all that was set, in place of one fitted before."""
    rest = [entry for entry in layers.fitted if entry.key != SIZE]
    return layers._replace(fitted=(*rest, Entry(SIZE, size, "measured on this machine")))


def _seconds(trial: Trial) -> float:
    """Of a whole training, with a tenth for sample grids and validation."""
    return 1.1 * trial.seconds * trial.run.train.updates


def _describe(survey: Survey) -> str:
    """The pictures in a sentence: how many, of what, how large."""
    shown = [*survey.names[:SHOWN], *(["…"] if len(survey.names) > SHOWN else [])]
    names = ", ".join(shown)
    kind = f" in {len(survey.names)} classes ({names})" if survey.names else ""
    kind = " with captions" if survey.captions else kind or " without captions or classes"
    widths, heights = zip(*survey.sizes, strict=True) if survey.sizes else ((0,), (0,))
    return (
        f"{survey.total:,} pictures{kind}, about {median_low(widths)}×{median_low(heights)} pixels"
    )


def _costs_like(run: Run, other: Run) -> bool:
    """Whether an update of the one takes as long as one of the other, at equal batches."""
    same = all(getattr(run, key) == getattr(other, key) for key in COSTS)
    return same and run.data.size == other.data.size


def _explain(run: Run, trial: Trial, trials: Sequence[Trial], say: Say) -> None:
    """Say what is trained, for how long, and what a larger training would take."""
    side, train = run.data.size, run.train
    length = f"{train.updates:,} updates of {train.batch} pictures at {side}×{side}"
    if not _costs_like(run, trial.run):
        say(f"size={run.size}, with your settings: {length}")
        return
    per_picture = _seconds(trial) / (trial.run.train.updates * trial.run.train.batch)
    seconds = per_picture * train.updates * train.batch
    threads = torch.get_num_threads()
    place = f"this CPU ({threads} thread{'s' * (threads != 1)})"
    place = place if pick_device(run.device).type == "cpu" else "this GPU"
    say(f"size={run.size}: {_network(trial)}, {length}: about {duration(seconds)} on {place}")
    # The next larger one, which took too long to be chosen.
    larger = trials[-1]
    if larger.run.size != run.size:
        updates, time = larger.run.train.updates, duration(_seconds(larger))
        say(f"add size={larger.run.size} for {_network(larger)}, {updates:,} updates: about {time}")
    elif seconds > LONGEST and run.size == OWN_PICTURES[0].size:
        say("this is the smallest size; a smaller train.updates ends sooner")


def _network(trial: Trial) -> str:
    return f"a network of {trial.parameters / 1e6:.1f} million parameters"
