"""Drawn pictures as files: PNGs that say how they were made, a sheet, the way they came."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from pathline.assemble import Parts, Sampler
from pathline.generate import NOTHING, Ask, Item, decode, states, title
from pathline.generate import generate as draw
from pathline.images import gif, image, save_png, sheet

FRAMES = 12  # states of a strip
ROWS = 8  # pictures of a strip


class Drawing(NamedTuple):
    """What is to be drawn and with what."""

    parts: Parts
    items: list[Item]
    seeds: list[int]
    sampler: Sampler
    weak: Parts | None
    about: dict[str, Any]
    ask: Ask = NOTHING


def pictures(drawing: Drawing, where: Path, batch: int, rows: int) -> list[Path]:
    """Draw all, write each, and a sheet of several; rows: of the sheet, 0 for about square."""
    parts, items, seeds = drawing.parts, drawing.items, drawing.seeds
    pixels = draw(
        parts, items, seeds, drawing.sampler, batch=batch, weak=drawing.weak, ask=drawing.ask
    )
    files = []
    for picture, item, seed in zip(pixels, items, seeds, strict=True):
        files.append(_free(where / f"{_slug(title(parts, item))}-{seed}.png"))
        about = drawing.about | {"prompt": title(parts, item), "seed": seed}
        save_png(image(picture), files[-1], about)
    if len(files) > 1:
        titles = [] if rows else [title(parts, item) for item in items]
        columns = len(files) // rows if rows else None
        files.append(_free(where / "sheet.png"))
        page = sheet(pixels, titles, columns=columns)
        save_png(page, files[-1], drawing.about | {"seed": seeds[0]})
    return files


def trajectories(drawing: Drawing, where: Path) -> list[Path]:
    """A strip of the first pictures' states, one picture a row, and a GIF of them."""
    parts, some = drawing.parts, slice(ROWS)
    walk = states(
        parts,
        drawing.items[some],
        drawing.seeds[some],
        drawing.sampler,
        weak=drawing.weak,
        ask=drawing.ask.rows(some),
    )
    seen = [decode(parts, x) for _, x in walk]
    kept = [seen[round(i * (len(seen) - 1) / (FRAMES - 1))] for i in range(min(FRAMES, len(seen)))]
    strip = torch.stack(kept, dim=1).flatten(0, 1)
    files = [_free(where / "trajectory.png"), _free(where / "trajectory.gif")]
    about = drawing.about | {"seed": drawing.seeds[0]}
    save_png(sheet(strip, columns=len(kept)), files[0], about)
    gif([sheet(frame) for frame in seen], files[1])
    return files


def _slug(text: str) -> str:
    return (
        "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60] or "picture"
    )


def _free(file: Path) -> Path:
    """The file, or it with a number behind if it is there already: nothing is overwritten."""
    if not file.exists():
        return file
    paths = (file.with_stem(f"{file.stem}-{number}") for number in range(2, 10**6))
    return next(path for path in paths if not path.exists())
