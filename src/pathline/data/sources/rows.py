"""Where pictures come from: every row of SOURCES is a function of its settings to a `Source`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from pathline.data.sources.archives import tar
from pathline.data.sources.folder import existing_folder, folder
from pathline.data.sources.listing import is_picture, walk
from pathline.data.sources.metadata import is_metadata
from pathline.data.sources.shapes import caption as caption_of
from pathline.data.sources.shapes import draw, scene
from pathline.data.sources.source import Source
from pathline.data.sources.tables import hub, parquet
from pathline.ranges import Range, Seed
from pathline.types import Example

__all__ = ["Source", "detect", "digits", "folder", "hub", "parquet", "shapes", "tar"]


def digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 1 × 8 × 8, ten classes."""
    from sklearn.datasets import load_digits  # takes seconds, and only this row needs it

    values, classes = load_digits(return_X_y=True)  # of 0 … 16
    pixels = torch.from_numpy(np.rint(np.asarray(values) * (255 / 16)).astype(np.uint8))
    pixels = pixels.view(-1, 1, 8, 8)
    labels = [int(label) for label in np.asarray(classes)]

    def read(row: int) -> Example:
        return Example(pixels[row], None, labels[row], f"digit-{row:04d}")

    return Source(len(labels), read, tuple("0123456789"), False)


def shapes(
    *,
    count: Annotated[int, Range(1, 10**7)] = 12_000,
    seed: Seed = 0,
    split: Literal["seen", "held_out"] = "seen",
) -> Source:
    """Captioned scenes, drawn as they are read."""

    def read(row: int) -> Example:
        content = scene(seed, row, split=split)
        key = f"scene-{split}-{seed}-{row:06d}"
        return Example(torch.from_numpy(draw(content)), caption_of(content), None, key)

    return Source(count, read, (), True)


def detect(path: Path) -> tuple[str, dict[str, Any]]:
    """The row that reads a file or folder of one's own, and its options."""
    rows = {".parquet": "parquet", ".tar": "tar"}
    if path.is_file():
        if path.suffix.lower() in rows:
            return rows[path.suffix.lower()], {"path": str(path)}
        raise ValueError(f"{path} is no data set. Take a folder of pictures, .parquet or .tar.")
    # One kind must be left: pictures beside a parquet file leave open which is the data.
    kinds = {
        rows.get(file.suffix.lower(), "folder" if is_picture(file) else "")
        for file in walk(existing_folder(path))
        if not is_metadata(file)
    } - {""}
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds files for {' and '.join(sorted(kinds))} together. Remove one "
            "kind, or set data.source=folder, parquet or tar."
        )
    return (kinds.pop() if kinds else "folder"), {"path": str(path)}


SOURCES = {
    "digits": digits,
    "shapes": shapes,
    "folder": folder,
    "parquet": parquet,
    "tar": tar,
    "hub": hub,
}
