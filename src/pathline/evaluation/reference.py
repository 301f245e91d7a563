"""Pictures that are there already: those of a folder, and those that a run was trained on."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from pathline.assemble import Parts
from pathline.config.pick import Pick, bind
from pathline.config.run import Run
from pathline.console import tracked
from pathline.data.decoded import Pictures, load
from pathline.data.sources.rows import detect
from pathline.data.sources.source import Source
from pathline.evaluation.score import Reference, training_pictures
from pathline.runs import folder as runs
from pathline.runs.dataset import Data, changed
from pathline.runs.feed import found
from pathline.tables import TABLES


def is_run(where: Path) -> bool:
    """Whether this names a run or a checkpoint, rather than pictures."""
    is_named = where.name.startswith("step-") or (where.name == runs.LATEST and not where.exists())
    return is_named or (where / runs.SETTINGS).is_file()


def pictures_in(where: Path, channels: int, console: Console, *, size: int | None) -> Pictures:
    """The pictures of a folder, cut square and scaled to `size`; none may be unreadable."""
    source = bind(TABLES["data.source"], Pick(*detect(where)), "data source")()

    side = size or _first_side(source)
    return load(
        source,
        size=side,
        channels=channels,
        max_bad=0.0,
        progress=partial(tracked, task="reading pictures", console=console),
    )


def refuse_other_sizes(where: Path, size: int | None) -> None:
    """Raises ValueError for a picture that is not size × size; None: the first one's."""
    source = bind(TABLES["data.source"], Pick(*detect(where)), "data source")()
    side = size or _first_side(source)
    for row in range(source.count):
        example = source.read(row)
        _, height, width = example.image.shape
        if (height, width) != (side, side):
            raise ValueError(
                f"{where}: {example.key} is {width}x{height}, where {side}x{side} was wanted. "
                "Cutting and scaling change every score: take it away, or ask for it by --size."
            )


def _first_side(source: Source) -> int:
    return source.read(0).image.shape[-1]


def reference_of(
    where: Path, size: int, channels: int, n: int, seed: int, console: Console
) -> Reference:
    """The training pictures of a run, or a folder's, cut and scaled as training data are.

    n: pictures that they will be compared with.
    """
    if not is_run(where):
        found = pictures_in(where, channels, console, size=size)
        return Reference(str(where), found.pixels, found.labels, names=found.names)
    opened = runs.open_run(where, lambda text: console.print(f"warning: {text}"))
    _, height, width = opened.facts[:3]
    if (opened.facts.channels, height) != (channels, size):
        raise ValueError(
            f"The drawn pictures are {size}x{size} with {channels} channels, those of {where} "
            f"{width}x{height} with {opened.facts.channels}: no comparison of the two means "
            "anything. Take real pictures of the same kind."
        )
    parts, _ = runs.parts_of(opened, ema=None, device=torch.device("cpu"))
    return training_pictures(*data_again(opened, parts, console), n, seed)


def data_again(opened: runs.Opened, parts: Parts, console: Console) -> tuple[Run, Data]:
    """A run's data, read as for its training. Raises ValueError if it has changed since."""
    unseen = replace(opened.run, vision=Pick("none"))  # no loss is taken: its encoder may be gone
    run, facts, data = found(unseen, opened.folder / runs.UNREADABLE, console)
    run = replace(run, vision=opened.run.vision)
    facts = facts._replace(vision=opened.facts.vision, vision_width=opened.facts.vision_width)
    if found_another := changed(opened.facts, facts):
        raise ValueError(
            f"The data of {opened.folder} is not what it was trained on: {found_another}. Put it "
            "back as it was; prompts, labels and what was held out are taken from it."
        )
    return run, data(parts)
