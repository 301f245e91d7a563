"""Data from pictures, decoded once at the run's size and encoded when they are read."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from pathline.codecs.normalise import normalise
from pathline.config.codec_run import CodecRun
from pathline.config.pick import Pick, bind
from pathline.config.run import Data, Run
from pathline.config.sections import Images
from pathline.console import tracked
from pathline.data.captioned import recaptioned, repeats_of
from pathline.data.captions import refuse_missing_captions
from pathline.data.decoded import Pictures, load
from pathline.data.sources.rows import detect
from pathline.data.sources.source import Source
from pathline.data.tags import arrange, variant
from pathline.parts import Parts
from pathline.runs.dataset import (
    Conditions,
    Dataset,
    LoadedData,
    encode_captions,
    fingerprint,
    fixed_conditions,
    label_conditions,
    split,
)
from pathline.tables import TABLES
from pathline.text.learned import LENGTH as WORDS
from pathline.text.learned import split as split_words
from pathline.text.learned import vocabulary
from pathline.text.table import reads_of
from pathline.types import Cond, Facts, Vision

MOST_WORDS = 512  # of a caption for which text=words is made longer by itself
AnyRun = TypeVar("AnyRun", Run, CodecRun)


def from_pictures(run: Run, report: Path | None, console: Console) -> LoadedData:
    """Read the run's pictures; the unreadable are listed in `report`, if any.

    Raises ValueError for settings that only a cache can follow.
    """
    _refuse_cache_settings(run)
    run, source = open_source(run)
    originals = load_pictures(run.data, source, report, console, _needs(run, source))
    pictures = _with_tags_in_order(run, originals)
    run, facts = _facts_of(run, pictures)
    vision: Vision = bind(TABLES["vision"], run.vision, "vision encoder")()
    facts = facts._replace(vision=vision.id, vision_width=vision.width)
    make = partial(_dataset, run, pictures, originals.captions or (), vision, console=console)
    return LoadedData(run, facts, make)


def open_source(run: AnyRun) -> tuple[AnyRun, Source]:
    """The run with its data source settled, and the source."""
    pick = run.data.source
    if pick.name == "auto":
        pick = Pick(*detect(Path(str(pick.options.get("path", "")))))
        run = replace(run, data=replace(run.data, source=pick))
    source: Source = bind(TABLES["data.source"], pick, "data source")()
    if isinstance(run.data, Data):  # a codec learns no captions
        by_name = run.data.captions == "filenames"
        source = recaptioned(source, filenames=by_name, trigger=run.data.trigger)
    return run, source


def refuse_inside(out: Path, run: Run) -> None:
    """Raise ValueError where `out` is in the run's image folder: it would be read as data."""
    folder = run.data.source.options.get("path")
    if folder is not None and out.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"--out {out} is inside the image folder and would be read as data. Choose a "
            "directory outside of it."
        )


def tag_options(run: Run) -> tuple[int, dict[str, Any]]:
    """The number of arrangements of a tag list, and the options of each."""
    tags = asdict(run.data.tags)
    return tags.pop("variants"), tags


def _needs(run: Run, source: Source) -> tuple[str, ...]:
    """What every picture must have for the run's text encoder: a caption, a label or nothing."""
    reads = reads_of(run.text.name)
    if reads is None:  # auto takes captions before classes
        reads = "words" if source.captioned else "labels"
    if reads in ("words", "captions"):
        is_needed = source.captioned and run.data.missing_captions == "refuse"
        return ("captions",) if is_needed else ()
    return ("labels",) if reads == "labels" else ()


def load_pictures(
    data: Images, source: Source, report: Path | None, console: Console, needs: Collection[str] = ()
) -> Pictures:
    """Every readable picture at data.size; the unreadable are listed in `report`, if any.

    Prints what is read and what is left out. needs: "captions" or "labels", of every picture.
    """
    for note in source.notes:
        console.print(note)
    pictures = load(
        source,
        size=data.size,
        channels=data.channels,
        max_bad=data.max_bad,
        memory_gb=data.memory_gb,
        report=report,
        needs=needs,
        progress=partial(tracked, task="reading pictures", console=console),
    )
    if pictures.unreadable:
        count = len(pictures.unreadable)
        console.print(f"{count} pictures can't be read and are left out: {report}")
    return pictures


def pixels_of(
    pictures: Pictures, rows: Tensor, flips: Tensor | None, device: torch.device
) -> Tensor:
    """uint8 [n c h w] of these rows, on the device; flips: which are mirrored."""
    pixels = pictures.pixels.index_select(0, rows).to(device, non_blocking=True)
    if flips is not None:
        pixels = torch.where(flips.to(device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    return pixels


def _refuse_cache_settings(run: Run) -> None:
    data = run.data
    settings = {
        "data.buckets.max_ratio": data.buckets.max_ratio != 1,
        "data.tags.variants": data.tags.variants and reads_of(run.text.name) not in (None, "words"),
        "data.caption_weights": bool(data.caption_weights),
    }
    for key, is_set in settings.items():
        if is_set:
            raise ValueError(
                f"{key} is for pictures in a cache. Make one with pathline preprocess and train "
                "with data.cache=FOLDER. Without one pictures are cut square, only their first "
                "caption is used, and tag lists are arranged for text=words alone."
            )


def _with_tags_in_order(run: Run, pictures: Pictures) -> Pictures:
    """Tag lists as samples and validation use them: in order, nothing shuffled or left out."""
    # Tag lists are arranged again at every reading.
    variants, options = tag_options(run)
    if not variants or pictures.captions is None:
        return pictures
    options |= {"shuffle": False, "dropout": 0.0}
    captions = [text and arrange(text, 0, 0, **options) for text in pictures.captions]
    return pictures._replace(captions=captions)


def settle_text(run: Run, captions: Sequence[str | None], *, has_classes: bool) -> Run:
    """The run with text=auto replaced by what the data has, long enough for every caption."""
    if run.text.name != "auto":
        return run
    if not any(captions):
        return replace(run, text=Pick("labels" if has_classes else "none"))
    longest, caption = max((len(split_words(text)), text) for text in captions if text)
    if longest > MOST_WORDS and "length" not in run.text.options:
        raise ValueError(
            f"text=words is wrong because a caption has {longest} words, more than {MOST_WORDS}, "
            f"and attention pays for each: {caption[:60]!r} … Shorten it, or set text.length."
        )
    length = {"length": longest} if longest > WORDS else {}
    return replace(run, text=Pick("words", {**run.text.options, **length}))


def _facts_of(run: Run, pictures: Pictures) -> tuple[Run, Facts]:
    """The facts of the pictures; text=auto is settled by whether they have captions or classes."""
    _, channels, height, width = pictures.pixels.shape
    run = settle_text(run, pictures.captions or (), has_classes=bool(pictures.names))
    words = vocabulary(pictures.captions or ()) if reads_of(run.text.name) == "words" else ()
    facts = Facts(channels, height, width, tuple(pictures.names), words)
    return run, facts._replace(pictures=fingerprint(pictures.keys))


def _dataset(
    run: Run,
    pictures: Pictures,
    originals: Sequence[str | None],
    vision: Vision,
    parts: Parts,
    *,
    console: Console,
) -> Dataset:
    """originals: the captions before tag lists were put in order."""
    # Pixels are encoded as they are asked for, on the device.
    train, held = split(run, len(pictures.pixels))

    def x1(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        return normalise(parts.codec, parts.codec.encode(pixels_of(pictures, rows, flips, device)))

    def features(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        if vision.to:
            vision.to(device)
        return vision.encode(pixels_of(pictures, rows, flips, device))

    return Dataset(
        keys=pictures.keys,
        names=pictures.names,
        labels=pictures.labels,
        captions=pictures.captions,
        train=train,
        held=held,
        x1=x1,
        cond=_conditions(run, pictures, originals, parts, console),
        null=parts.text.null,
        pixels=lambda rows: pictures.pixels[rows],
        features=features if vision.width else None,
        repeats=repeats_of(pictures.keys, pictures.repeats, run.data.repeats),
    )


def _conditions(
    run: Run, pictures: Pictures, originals: Sequence[str | None], parts: Parts, console: Console
) -> Conditions:
    # What does not change during training is encoded once for all rows.
    reads = reads_of(run.text.name)
    if reads == "nothing":
        return fixed_conditions(Cond())
    if reads == "labels":
        return label_conditions(pictures.labels, parts.text, run.data.source.name)
    captions = pictures.captions or [None] * len(pictures.pixels)
    if run.data.missing_captions == "refuse":
        refuse_missing_captions(dict(zip(pictures.keys, captions, strict=True)))
    in_order = fixed_conditions(encode_captions(parts.text, captions, console))
    variants, options = tag_options(run)
    if not variants or reads != "words":
        return in_order

    def arranged(rows: Tensor, choices: Tensor | None) -> Cond:
        """Words in training, each tag list in the arrangement that its number chooses."""
        if choices is None:
            return in_order(rows, None)
        # A uniform number chooses among the arrangements.
        numbers = (choices * variants).long().tolist()
        texts = []
        for row, number in zip(rows.tolist(), numbers, strict=True):
            text, key = originals[row], pictures.keys[row]
            texts.append(text and variant(text, key, number, run.seed, **options))
        return parts.text.encode(texts)

    return arranged
