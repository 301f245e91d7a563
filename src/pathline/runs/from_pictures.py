"""Dataset from pictures, decoded once at the run's size and encoded as they are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from rich.console import Console
from torch import Tensor

from pathline.assemble import Parts
from pathline.codecs.normalise import normalise
from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.console import tracked
from pathline.data.captions import refuse_missing_captions
from pathline.data.decoded import Pictures, load
from pathline.data.sources.rows import detect
from pathline.data.sources.source import Source
from pathline.data.tags import arrange, variant
from pathline.runs.dataset import Dataset, LoadedData, fingerprint, split
from pathline.tables import TABLES
from pathline.text.learned import vocabulary
from pathline.text.table import reads_of
from pathline.types import Cond, Facts, Vision, rows_of

R = TypeVar("R", bound=Any)


def from_pictures(run: Run, report: Path | None, console: Console) -> LoadedData:
    """Read the run's pictures; the unreadable are listed in `report`, if any.

    Raises ValueError for settings that only a cache can follow.
    """
    _refuse_cached(run)
    run, source = open_source(run)
    pictures = load_pictures(run.data, source, report, console)
    given, pictures = pictures.captions or (), _whole(run, pictures)
    run, facts = _facts_of(run, pictures)
    vision: Vision = bind(TABLES["vision"], run.vision, "vision encoder")()
    facts = facts._replace(vision=vision.id, vision_width=vision.width)
    return LoadedData(run, facts, partial(_data, run, pictures, given, vision))


def open_source(run: R) -> tuple[R, Source]:
    """The run, of a flow or a codec, with its data source settled, and the source."""
    pick = run.data.source
    if pick.name == "auto":
        row, options = detect(Path(str(pick.options.get("path", ""))))
        pick = Pick(row, options)
        run = replace(run, data=replace(run.data, source=pick))
    return run, bind(TABLES["data.source"], pick, "data source")()


def refuse_inside(out: Path, run: Run) -> None:
    """Raise ValueError where `out` is in the run's image folder: it would be read as data."""
    folder = run.data.source.options.get("path")
    if folder is not None and out.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"--out {out} is inside the image folder and would be read as data. Choose a "
            "directory outside of it."
        )


def tag_options(run: Run) -> tuple[int, dict[str, Any]]:
    """How many arrangements of a tag list are asked for, and the settings of each."""
    tags = asdict(run.data.tags)
    return tags.pop("variants"), tags


def _refuse_cached(run: Run) -> None:
    data = run.data
    asked = {
        "data.buckets.max_ratio": data.buckets.max_ratio != 1,
        "data.tags.variants": data.tags.variants and reads_of(run.text.name) not in (None, "words"),
        "data.caption_weights": bool(data.caption_weights),
    }
    for key, given in asked.items():
        if given:
            raise ValueError(
                f"{key} is for pictures in a cache: make one with pathline preprocess and train "
                "with data.cache=FOLDER. Without one pictures are cut square, their first caption "
                "is heard, and tag lists are arranged for text=words alone."
            )


@runtime_checkable
class Wanted(Protocol):
    """What settings of data say of its pictures."""

    @property
    def size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def max_bad(self) -> float: ...

    @property
    def memory_gb(self) -> float: ...


def load_pictures(data: Wanted, source: Source, report: Path | None, console: Console) -> Pictures:
    """Every readable picture at the size wanted; the unreadable are listed in `report`, if any."""

    found = load(
        source,
        size=data.size,
        channels=data.channels,
        max_bad=data.max_bad,
        memory_gb=data.memory_gb,
        report=report,
        progress=partial(tracked, task="reading pictures", console=console),
    )
    if found.unreadable:
        console.print(f"{len(found.unreadable)} pictures can't be read and are left out: {report}")
    return found


def pixels_of(
    pictures: Pictures, rows: Tensor, flips: Tensor | None, device: torch.device
) -> Tensor:
    """uint8 [n c h w] of these rows, on the device; flips: which are mirrored."""
    pixels = pictures.pixels.index_select(0, rows).to(device, non_blocking=True)
    if flips is not None:
        pixels = torch.where(flips.to(device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    return pixels


def _facts_of(run: Run, pictures: Pictures) -> tuple[Run, Facts]:
    """What the run will know of its data; text=auto is settled by what the data has."""
    _, channels, height, width = pictures.pixels.shape
    captioned = bool(pictures.captions) and any(pictures.captions or ())
    if run.text.name == "auto":
        name = "words" if captioned else "labels" if pictures.names else "none"
        run = replace(run, text=Pick(name, run.text.options if name == "words" else {}))
    words = vocabulary(pictures.captions or ()) if reads_of(run.text.name) == "words" else ()
    facts = Facts(channels, height, width, tuple(pictures.names), words)
    return run, facts._replace(pictures=fingerprint(pictures.keys))


def _data(
    run: Run, pictures: Pictures, given: Sequence[str | None], vision: Vision, parts: Parts
) -> Dataset:
    train, held = split(run, len(pictures.pixels))

    def x1(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        pixels = pixels_of(pictures, rows, flips, device)
        return normalise(parts.codec, parts.codec.encode(pixels))

    def features(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        if vision.to:
            vision.to(device)
        return vision.encode(pixels_of(pictures, rows, flips, device))

    return Dataset(
        pictures.keys,
        pictures.names,
        pictures.labels,
        pictures.captions,
        train,
        held,
        x1,
        _cond(run, pictures, given, parts),
        parts.text.null,
        lambda rows: pictures.pixels[rows],
        features=features if vision.width else None,
    )


def _whole(run: Run, pictures: Pictures) -> Pictures:
    """With tag lists as they are shown and held out: put in order, nothing shuffled or left out."""
    variants, manner = tag_options(run)
    if not variants or pictures.captions is None:
        return pictures
    manner |= {"shuffle": False, "dropout": 0.0}
    captions = [text and arrange(text, 0, 0, **manner) for text in pictures.captions]
    return pictures._replace(captions=captions)


def _cond(
    run: Run, pictures: Pictures, given: Sequence[str | None], parts: Parts
) -> Callable[[Tensor, Tensor | None], Cond]:
    """Conditions of rows: words in training with each tag list in the arrangement it draws."""
    whole = _conditions(run, parts, pictures)
    variants, manner = tag_options(run)
    arranges = variants and reads_of(run.text.name) == "words"

    def cond(rows: Tensor, choices: Tensor | None) -> Cond:
        if choices is None or not arranges:
            return rows_of(whole, rows)
        numbers = (choices * variants).long().tolist()
        drawn = [(given[row], pictures.keys[row]) for row in rows.tolist()]
        return parts.text.encode(
            [
                said and variant(said, key, number, run.seed, **manner)
                for (said, key), number in zip(drawn, numbers, strict=True)
            ]
        )

    return cond


def _conditions(run: Run, parts: Parts, pictures: Pictures) -> Cond:
    """A row for each picture."""
    if reads_of(run.text.name) == "labels":
        assert pictures.labels is not None
        return parts.text.encode(pictures.labels.tolist())
    if reads_of(run.text.name) == "nothing":
        return Cond()
    captions = pictures.captions or [None] * len(pictures.pixels)
    if run.data.missing_captions == "refuse":
        refuse_missing_captions(dict(zip(pictures.keys, captions, strict=True)))
    return parts.text.encode(captions)
