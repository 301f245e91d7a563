"""Captioned scenes drawn by a seeded program: endless exact data for text to image.

Scene `index` of a seed does not depend on other scenes. The pairs in `HELD_OUT` never occur in the
split "seen", in no role, so prompts with them test compositions that were not trained on.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from pathline.scene_grammar import (
    GROUND,
    PALETTE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    caption,
    parse,
)

__all__ = ["HELD_OUT", "TRAINED", "caption", "draw", "parse", "prompts", "scene", "scored"]


HELD_OUT = (("blue", "circle"), ("red", "triangle"), ("yellow", "square"))
TRAINED = tuple((c, s) for c in PALETTE for s in SHAPES if (c, s) not in HELD_OUT)

EDGE = 1  # pixels kept free at the rim
STEP = 4  # things stand on every fourth pixel: fewer views to learn in minutes
GAP = 3  # least clear pixels between two things
PAIRED = 11  # extent of each of two things: two large ones would not fit side by side
CORNER = 5  # least pixels from the middle line for a stated corner
MIDDLE = 2  # most pixels from the middle for "in the middle"


def scene(seed: int, index: int, *, split: str = "seen", objects: int | None = None) -> Scene:
    """Scene `index` of `seed`, with boxes; `objects` 1 or 2, or None for either."""
    if split not in ("seen", "held_out"):
        raise ValueError(f"split {split!r} is none; choose 'seen' or 'held_out'")
    rng = np.random.default_rng([seed, index, objects or 0, split == "held_out"])
    count = objects or int(rng.integers(1, 3))
    pairs = _pairs(rng, count, split)
    return _single(rng, pairs[0]) if count == 1 else _double(rng, pairs)


def scored(split: str, count: int, seed: int = 0) -> list[Scene]:
    """Scenes to score a model with, of one and two things in turn; no training scene among them."""
    return [scene(seed + 2**31, i, split=split, objects=1 + i % 2) for i in range(count)]


def prompts(split: str, count: int, seed: int = 0) -> list[str]:
    """The captions of `scored`."""
    return [caption(scene) for scene in scored(split, count, seed)]


def draw(scene: Scene) -> UInt8[np.ndarray, "3 32 32"]:
    """The picture of a scene whose things have boxes; edges are antialiased."""
    picture = np.empty((3, SIDE, SIDE), np.uint8)
    picture[:] = np.asarray(GROUND)[:, None, None]
    for thing in scene.things:
        if thing.box is None or thing.colour is None or thing.shape is None:
            raise ValueError(f"cannot draw {thing}: it needs a colour, a shape and a box")
        left, top, width, height = thing.box
        sprite = _sprite(thing.colour, thing.shape, width)
        picture[:, top : top + height, left : left + width] = sprite  # boxes never overlap
    return picture


def _pairs(rng: np.random.Generator, count: int, split: str) -> list[tuple[str, str]]:
    """A (colour, shape) for each thing; in "held_out" at least one pair is in no training scene."""
    if split == "seen":
        return [TRAINED[i] for i in rng.integers(len(TRAINED), size=count)]
    new = HELD_OUT[rng.integers(len(HELD_OUT))]
    pool = TRAINED + HELD_OUT
    others = [pool[i] for i in rng.integers(len(pool), size=count - 1)]
    at = int(rng.integers(count))
    return [*others[:at], new, *others[at:]]


def _single(rng: np.random.Generator, pair: tuple[str, str]) -> Scene:
    """One thing; its size is mostly stated, its place half of the time."""
    size = ("small", "large")[rng.integers(2)]
    extent = SIZES[size]
    place = list(PLACES)[rng.integers(len(PLACES))] if rng.random() < 0.5 else None
    sides = (None, None) if place is None else PLACES[place]
    left, top = (_spot(rng, extent, side) for side in sides)
    stated = size if rng.random() < 0.75 else None
    return Scene((Thing(*pair, stated, place, (left, top, extent, extent)),))


def _spot(rng: np.random.Generator, extent: int, side: int | None) -> int:
    """Where a thing begins along one axis: anywhere, or on one side of the middle, or on it."""
    low, high = EDGE, SIDE - EDGE - extent
    middle = (SIDE - extent) / 2
    if side == 0:
        low, high = round(middle - MIDDLE), round(middle + MIDDLE)
    elif side == -1:
        high = int(middle - CORNER)
    elif side == 1:
        low = int(np.ceil(middle + CORNER))
    return _place(rng, low, high)


def _double(rng: np.random.Generator, pairs: list[tuple[str, str]]) -> Scene:
    """Two things, apart along one axis and in line along the other."""
    relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
    along = _apart(rng)[:: -sum(RELATIONS[relation])]
    across = [_place(rng, EDGE, SIDE - EDGE - PAIRED)] * 2
    x, y = (along, across) if RELATIONS[relation][1] == 0 else (across, along)
    things = tuple(
        Thing(*pair, None, None, (x[i], y[i], PAIRED, PAIRED)) for i, pair in enumerate(pairs)
    )
    return Scene(things, relation)


def _apart(rng: np.random.Generator) -> list[int]:
    """Beginnings of two things along an axis, the lower first, at least GAP between them."""
    slack = SIDE - 2 * EDGE - 2 * PAIRED - GAP
    a, b = sorted(STEP * int(k) for k in rng.integers(slack // STEP + 1, size=2))
    return [EDGE + a, EDGE + PAIRED + GAP + b]


def _place(rng: np.random.Generator, low: int, high: int) -> int:
    """One of the pixels from low to high on which things stand."""
    first = -(-(low - EDGE) // STEP)
    return EDGE + STEP * int(rng.integers(first, (high - EDGE) // STEP + 1))


@cache
def _sprite(colour: str, shape: str, extent: int) -> UInt8[np.ndarray, "3 n n"]:
    """A thing in its box, mixed with the ground along its edge."""
    ground, full = (np.asarray(c)[:, None, None] for c in (GROUND, PALETTE[colour]))
    return np.rint(ground + _stencil(shape, extent) * (full - ground)).astype(np.uint8)


def _stencil(shape: str, extent: int) -> Float[np.ndarray, "n n"]:
    """The share of each pixel that a shape covers, from 8×8 points in it."""
    at = (np.arange(extent * 8) + 0.5) / (extent * 8) * 2 - 1  # −1 … 1 over the box
    x, y = at[None, :], at[:, None]
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": np.ones_like(x * y, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
    }[shape]
    return inside.reshape(extent, 8, extent, 8).mean((1, 3), dtype=np.float32)
