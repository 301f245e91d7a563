"""Buckets: one budget of pixels in many shapes, which shape a picture takes, and what that costs.

Sizes are (height, width) in pixels.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pathline.data.transforms import from_image, halvings, scaled, to_image

Size = tuple[int, int]
ROUND = 1e-9  # so that the root of a square number is not rounded up


class Buckets(NamedTuple):
    """The sizes there are, and how far a picture may be enlarged to one of them."""

    sizes: tuple[Size, ...]  # from the tallest to the widest
    upscale: float
    small: Literal["refuse", "keep"]


class Place(NamedTuple):
    """How a picture comes to the size of its bucket: scaled to cover it, then cut."""

    size: Size  # of the bucket
    scaled: Size  # of the whole picture, scaled
    top: int  # of the cut, in the scaled picture
    left: int
    scale: float  # above 1: enlarged
    cropped: float  # share of the picture that is cut off


def settle(
    size: int,
    unit: int,
    *,
    multiple: int = 0,
    max_ratio: float = 2.0,
    upscale: float = 1.25,
    small: Literal["refuse", "keep"] = "refuse",
) -> Buckets:
    """The buckets of about size² pixels. unit: what each side must be a multiple of.

    multiple: of the sides, 0 for `unit`. max_ratio: of the sides, 1 for squares alone. upscale: how
    far a picture may be enlarged; what would need more is refused (left out) or kept. Raises
    ValueError.
    """
    multiple = multiple or unit
    if multiple % unit:
        raise ValueError(
            f"data.buckets.multiple={multiple} is no multiple of {unit}, the pixels on a side that "
            "one patch of the backbone stands for. Take one, or 0, or a smaller backbone.patch."
        )
    return Buckets(sizes(size, multiple=multiple, max_ratio=max_ratio), upscale, small)


def sizes(size: int, *, multiple: int, max_ratio: float) -> tuple[Size, ...]:
    """Every width near `size`, with the greatest height within size² pixels, and both exchanged.

    The list of photoroom/PRX (prx/dataset/transforms.py), for any ratio. The ideal sides keep to
    max_ratio; rounded down to the multiple they may exceed it by a little.
    """
    if size < multiple or size % multiple:
        near = max(1, size // multiple) * multiple
        raise ValueError(
            f"data.size={size} is no multiple of {multiple}, which the sides of a picture must be "
            f"for this codec and backbone. Nearest: {near} or {near + multiple}."
        )
    # Widths between those of the two extreme ratios; the height follows from the area.
    side, root = size // multiple, math.sqrt(max_ratio)
    widths = range(max(1, math.ceil(side / root - ROUND)), math.floor(side * root + ROUND) + 1)
    shapes = {(side**2 // width, width) for width in widths if width <= side**2}
    shapes |= {(width, height) for height, width in shapes}
    ordered = sorted(shapes, key=lambda shape: (shape[1] / shape[0], shape))
    return tuple((height * multiple, width * multiple) for height, width in ordered)


def size_name(size: Size) -> str:
    """A bucket's name: width x height."""
    return f"{size[1]}x{size[0]}"


def place(height: int, width: int, sizes: Sequence[Size]) -> Place:
    """The bucket whose shape is nearest by |log ratio|, the larger of two, and the cut in it."""
    shape = math.log(width / height)

    def apart(size: Size) -> tuple[float, int]:
        # Rounded, so that shapes that are equally far apart tie and the larger one wins.
        return round(abs(math.log(size[1] / size[0]) - shape), 12), -size[0] * size[1]

    size = min(sizes, key=apart)
    scale = max(size[0] / height, size[1] / width)
    # The halvings that `cut` will do round down: the last scale is of what they leave.
    *_, (height, width) = (height, width), *halvings((height, width), size)
    rest = max(size[0] / height, size[1] / width)
    scaled = (max(size[0], round(height * rest)), max(size[1], round(width * rest)))
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    cropped = 1 - size[0] * size[1] / (scaled[0] * scaled[1])
    return Place(size, scaled, top, left, scale, cropped)


def too_small(height: int, width: int, cut: Place, upscale: float) -> str | None:
    """Why a picture can't take its place, in words; None if it can."""
    if cut.scale <= upscale * (1 + ROUND):
        return None
    return (
        f"{width}x{height} would be enlarged {cut.scale:.2f} times to cover "
        f"{cut.size[1]}x{cut.size[0]}; data.buckets.upscale={upscale:g} is the most"
    )


def cut(image: UInt8[Tensor, "c h w"], place: Place) -> UInt8[Tensor, "c H W"]:
    """The picture at its place: halved by box filter while it is twice too large, then bicubic.

    For a square place this is `transforms.fit`.
    """
    height, width = place.size
    if image.shape[1:] == place.size:
        return image
    picture = to_image(image)
    for half in halvings(picture.size, (width, height)):
        picture = picture.resize(half, Image.Resampling.BOX)
    covered = (place.scaled[1], place.scaled[0])
    picture = scaled(picture, covered)
    box = (place.left, place.top, place.left + width, place.top + height)
    return from_image(picture.crop(box))
