"""What every data source gives."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from pathline.types import Example

UNDECODED = torch.empty((0, 0, 0), dtype=torch.uint8)  # in the place of a picture


class Source(NamedTuple):
    """Pictures by number; reading one decodes it and may raise ValueError or OSError."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.count
    read: Callable[[int], Example]  # row -> uint8 picture of its own size
    names: tuple[str, ...]  # of the classes; empty without labels
    captioned: bool  # whether any picture may have a caption
    encoded: Callable[[int], bytes | Path] | None = None  # row -> file or its bytes, undecoded
    about: Callable[[int], Example] | None = None  # the same example with no pixels, undecoded
    notes: tuple[str, ...] = ()  # what is read, from where, and what is left out, in sentences
    are_files: bool = False  # whether the keys are names of files
