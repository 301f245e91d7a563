"""Finished pictures: PNG files that say how they were made, labelled sheets, strips, GIFs."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pathline.files import write_whole

SHEET = "pathline sheet"  # the comment in files of several pictures
HEAD = 4096  # bytes of a file in which its comment stands
EDGE, GAP, LINE = 96, 6, 13  # least pixels of a tile's side, between tiles, of a line of text
ROWS = 3  # lines of a title; a longer one ends in …


def image(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One picture, grey or colour."""
    array = pixels.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))


def save_png(picture: Image.Image, file: Path, about: Mapping[str, Any]) -> None:
    """A PNG with `about` twice: as the `parameters` text of other tools, as JSON in `pathline`.

    about: prompt, negative, steps, solver, guidance, seed, model, …; absent ones are left out.
    """
    info = PngInfo()
    info.add_text("parameters", parameters(about, picture.size))
    info.add_text("pathline", json.dumps(about))
    write_picture(picture, file, pnginfo=info)


def write_picture(picture: Image.Image, file: Path, **options: Any) -> None:
    """Write a picture whole or not at all, in the format of its suffix. Raises OSError."""
    Image.init()
    form = Image.EXTENSION.get(file.suffix.lower())
    if form not in Image.SAVE:
        raise ValueError(f"{file} can't be written as a picture: name a file .png or .jpg.")
    write_whole(file, lambda part: picture.save(part, form, **options))


def save_sheet(page: Image.Image, file: Path, about: Mapping[str, Any] | None = None) -> None:
    """A page of several pictures, marked in its metadata so that it never counts as a picture."""
    save_png(page, file, {**(about or {}), "comment": SHEET})


def is_sheet(file: Path) -> bool:
    """Whether pathline wrote this PNG or GIF as a sheet, strip or animation; the file says so.

    Only its beginning is read, where such texts stand.
    """
    if file.suffix.lower() not in (".png", ".gif"):
        return False
    try:
        with file.open("rb") as stream:
            return SHEET.encode() in stream.read(HEAD)
    except OSError:  # whoever reads it will say what is wrong with it
        return False


def parameters(about: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The A1111 text: prompt, negative prompt, then `Steps: 20, Sampler: euler, …`."""
    names = {"steps": "Steps", "solver": "Sampler", "guidance": "CFG scale", "seed": "Seed"}
    facts = [f"{title}: {about[key]}" for key, title in names.items() if about.get(key) is not None]
    facts += [f"Size: {size[0]}x{size[1]}"]
    facts += [
        f"{t}: {about[k]}"
        for k, t in {"model": "Model", "hash": "Model hash"}.items()
        if k in about
    ]
    lines = [str(about.get("prompt") or "")]
    if about.get("negative"):
        lines.append(f"Negative prompt: {about['negative']}")
    return "\n".join([*lines, ", ".join(facts)])


def sheet(
    pixels: UInt8[Tensor, "n c h w"], titles: Sequence[str] = (), *, columns: int | None = None
) -> Image.Image:
    """Pictures in rows, each enlarged by whole steps to about 96 pixels, its title below it."""
    count, _, height, width = pixels.shape
    columns = columns or min(count, max(1, math.ceil(math.sqrt(count * 1.5))))
    # Enlarged by whole numbers, so that every pixel stays a square.
    factor = max(1, round(EDGE / max(height, width)))
    tile = (width * factor, height * factor)
    wrap = textwrap.TextWrapper(max(4, tile[0] // 6), max_lines=ROWS, placeholder=" …")
    lines = [wrap.wrap(title) for title in titles]
    foot = max((len(rows) for rows in lines), default=0) * LINE
    rows = math.ceil(count / columns)
    step = (tile[0] + GAP, tile[1] + GAP + foot)
    page = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for index in range(count):
        left, top = GAP + index % columns * step[0], GAP + index // columns * step[1]
        page.paste(image(pixels[index]).resize(tile, Image.Resampling.NEAREST), (left, top))
        for number, text in enumerate(lines[index] if lines else ()):
            pen.text((left, top + tile[1] + 1 + number * LINE), text, fill="black", font=font)
    return page


def gif(frames: Sequence[Image.Image], file: Path, *, seconds: float = 3.0) -> None:
    """Frames in turn, the last held for a second."""
    each = max(20, int(1000 * seconds / len(frames)))
    times = [*[each] * (len(frames) - 1), 1000]
    more = {"append_images": frames[1:], "duration": times, "loop": 0}
    write_picture(frames[0], file, save_all=True, comment=SHEET, **more)
