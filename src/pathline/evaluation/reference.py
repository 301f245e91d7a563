"""Real images to compare with: those of a folder, or of a run, whose data is read again."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.console import tracked
from pathline.data.decoded import Pictures, load
from pathline.data.sources.rows import detect
from pathline.evaluation.training_images import Reference, training_reference
from pathline.files import why_missing
from pathline.parts import Parts
from pathline.runs import folder as runs
from pathline.runs.dataset import Dataset, changed
from pathline.runs.feed import load_data
from pathline.runs.sampling import parts_of
from pathline.tables import TABLES
from pathline.types import Example, Item


def is_run(path: Path) -> bool:
    """Whether this names a run or a checkpoint, rather than a folder of images."""
    is_name = path.name.startswith("step-") or (path.name == runs.LATEST and not path.exists())
    return is_name or (path / runs.SETTINGS).is_file()


def refuse_missing(path: Path) -> None:
    """Raises FileNotFoundError for a path that is not there, with what lies beside it."""
    if not path.exists() and not is_run(path):
        reason = why_missing(path)
        raise FileNotFoundError(
            f"{reason[0].upper()}{reason[1:]} Give a run, or a folder of images; a path with "
            "spaces needs quotes."
        )


def load_folder(
    folder: Path, channels: int, console: Console, *, size: int | None, scale: bool = True
) -> Pictures:
    """The images of a folder, cropped square and scaled to `size`; none may be unreadable.

    size: None is the first image's. scale: False raises ValueError for images of other sizes.
    """
    source = bind(TABLES["data.source"], Pick(*detect(folder)), "data source")()
    side = size or source.read(0).image.shape[-1]
    # Decoding crops and scales, so sizes are noted while images are read.
    wrong_sizes: dict[int, str] = {}

    def read_measured(row: int) -> Example:
        example = source.read(row)
        _, height, width = example.image.shape
        if (height, width) != (side, side):
            wrong_sizes[row] = f"{example.key} is {width}x{height}"
        return example

    pictures = load(
        source._replace(read=read_measured),
        size=side,
        channels=channels,
        max_bad=0.0,
        progress=partial(tracked, task="reading images", console=console),
    )
    if wrong_sizes and not scale:
        raise ValueError(
            f"{folder}: {wrong_sizes[min(wrong_sizes)]}, not {side}x{side}. Cropping and scaling "
            "change every score: remove it, or crop and scale all of them with --size."
        )
    return pictures


def class_labels(images: Pictures, opened: runs.Opened | None, rows: Tensor) -> list[Item]:
    """The class of each image, where its folders are named as the run's classes."""
    if opened is None or images.labels is None or images.names != opened.facts.names:
        return []
    return images.labels[rows].tolist()


def read_reference(
    path: Path, size: int, channels: int, n: int, seed: int, console: Console
) -> Reference:
    """The training images of a run, or a folder's, cropped and scaled as training data are.

    n: images that they will be compared with.
    """
    if not is_run(path):
        pictures = load_folder(path, channels, console, size=size)
        return Reference(str(path), pictures.pixels, pictures.labels, names=pictures.names)
    # A run stands for the images that it was trained on, read again.
    opened = runs.open_run(path, lambda text: console.print(f"warning: {text}"))
    facts = opened.facts
    if (facts.channels, facts.height) != (channels, size):
        raise ValueError(
            f"The sampled images are {size}x{size} with {channels} channels, those of {path} "
            f"{facts.width}x{facts.height} with {facts.channels}, and scores between them mean "
            "nothing. Take real images of the same size and channels."
        )
    parts, _ = parts_of(opened, ema=None, device=torch.device("cpu"))
    return training_reference(*reread_data(opened, parts, console), n, seed)


def reread_data(opened: runs.Opened, parts: Parts, console: Console) -> tuple[Run, Dataset]:
    """A run's data, read as for its training. Raises ValueError if it has changed since."""
    # no loss is computed: the vision encoder of the alignment term need not exist any more
    without_vision = replace(opened.run, vision=Pick("none"))
    run, facts, data = load_data(without_vision, opened.folder / runs.UNREADABLE, console)
    run = replace(run, vision=opened.run.vision)
    facts = facts._replace(vision=opened.facts.vision, vision_width=opened.facts.vision_width)
    if difference := changed(opened.facts, facts):
        raise ValueError(
            f"The data of {opened.folder} is not what it was trained on: {difference}. Restore it: "
            "prompts, labels and held-out images are taken from it."
        )
    return run, data(parts)
