"""Whether images of captioned scenes match their prompts: an exact detector.

A pixel belongs to the colour on whose line from the background it is, if it is at least half way
there. A connected patch with a core that survives an opening is a thing; its extent, fill and
profile give size and shape. Score it on real scenes too: that is the upper limit of any model.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from scipy import ndimage
from torch import Tensor

from pathline.scene_grammar import (
    GROUND,
    PALETTE,
    PLACES,
    RELATIONS,
    SIZES,
    Scene,
    Thing,
    caption,
    parse,
)

HALF = 0.5  # share of the way from ground to colour from which a pixel counts
STRAY = 0.25  # most distance from a colour's line, as a share of the way to that colour
LEAST = 12  # pixels of the smallest core
MOST = 8  # things matched with a prompt, the largest ones
BOUND = sum(SIZES.values()) / 2  # extent between small and large
CENTRE = 3.0  # pixels from the middle line within which a thing is in the middle
APART = 4.0  # least pixels between centres for a relation to hold


class Adherence(NamedTuple):
    """How well n images show their prompts. An attribute is one stated fact of one prompt."""

    mean: float  # of the pictures' shares of right attributes (AM)
    geometric: float  # mean over the kinds of attribute (GM)
    exact: float  # share of pictures with every attribute right
    n: int
    kinds: dict[str, float]  # kind of attribute -> share right over all pictures that state it
    pictures: tuple[dict[str, bool], ...]  # per picture: "count", "1 colour", …, "relation"


class Order(NamedTuple):
    """Whether images of two things show their order. A model that ignores order has both equal.

    Scored by the prompts of two things that read otherwise with the things exchanged.
    """

    right: float  # share of pictures that fit their prompt in every attribute
    swapped: float  # share that fit the prompt with the two things exchanged
    n: int


def adherence(pixels: UInt8[Tensor, "n 3 h w"], captions: list[str]) -> Adherence:
    """Score pictures against their prompts.

    Raises ValueError for a prompt outside the grammar or for unequal numbers.
    """
    if len(captions) != len(pixels) or not captions:
        raise ValueError(
            f"{len(captions)} prompts for {len(pixels)} images are wrong. Give one each."
        )
    scenes = [parse(text) for text in captions]
    pictures = tuple(map(attributes, scenes, read(pixels)))
    # Shares by kind of attribute: colour, shape, size, place, relation.
    kinds: dict[str, list[bool]] = {}
    for picture in pictures:
        for name, right in picture.items():
            kinds.setdefault(name.lstrip("12 "), []).append(right)
    shares = {kind: float(np.mean(kinds[kind])) for kind in kinds}
    return Adherence(
        mean=float(np.mean([np.mean(list(picture.values())) for picture in pictures])),
        # A geometric mean: a kind of attribute that is never right makes it 0.
        geometric=float(np.prod(list(shares.values())) ** (1 / len(shares))),
        exact=float(np.mean([all(picture.values()) for picture in pictures])),
        n=len(pictures),
        kinds=shares,
        pictures=pictures,
    )


def order(pixels: UInt8[Tensor, "n 3 h w"], captions: list[str]) -> Order | None:
    """Images against their prompts and the swapped ones; None where no prompt can be swapped."""
    turned = [swap(text) for text in captions]
    rows = [i for i, text in enumerate(turned) if text is not None]
    if not rows:
        return None
    right = adherence(pixels[rows], [captions[i] for i in rows])
    swapped = adherence(pixels[rows], [text for text in turned if text is not None])
    return Order(right.exact, swapped.exact, len(rows))


def swap(text: str) -> str | None:
    """The prompt with its two things exchanged; None where it has one, or that changes nothing."""
    scene = parse(text)
    turned = Scene(scene.things[::-1], scene.relation)
    return None if turned == scene else caption(turned)


def read(pixels: UInt8[Tensor, "n 3 h w"]) -> list[list[Thing]]:
    """The things detected in each image; an unknown shape is None."""
    things: list[list[Thing]] = [[] for _ in range(len(pixels))]
    if not len(pixels):
        return things
    colours = tuple(PALETTE)
    masks = _colours(pixels.cpu().numpy())
    # Single pixels and lines are no things: 2×2 pixels of a colour must be there.
    core = np.asarray(ndimage.binary_opening(masks, np.ones((1, 1, 2, 2), bool)), bool)
    flat = np.zeros((3, 3, 3, 3), int)
    flat[1, 1, :, :] = 1  # neighbours are in the same image and colour
    labels = np.empty(masks.shape, np.int32)
    ndimage.label(masks, flat, output=labels)
    places = ndimage.find_objects(labels)
    cores = np.bincount(labels[core], minlength=len(places) + 1)
    # Each connected region with a core becomes a thing.
    for i in np.flatnonzero(cores >= LEAST).tolist():
        picture, colour, down, right = places[i - 1]
        mask = labels[picture, colour, down, right][0, 0] == i
        thing = _thing(mask, colours[colour.start], right.start, down.start, pixels.shape[-1])
        things[picture.start].append(thing)
    return things


def attributes(scene: Scene, things: list[Thing]) -> dict[str, bool]:
    """Every stated fact of a scene and whether the detected things show it.

    Things are matched with the scene's in the most favourable order; a missing one is all wrong.
    """
    missing = Thing(None, None)
    largest = sorted(things, key=lambda thing: _area(thing.box), reverse=True)[:MOST]
    pool = largest + [missing] * (len(scene.things) - len(things))
    chances = (_facts(scene, matched) for matched in permutations(pool, len(scene.things)))
    best = max(chances, key=lambda facts: sum(facts.values()))
    return {"count": len(things) == len(scene.things)} | best


def _facts(scene: Scene, matched: tuple[Thing, ...]) -> dict[str, bool]:
    facts = {}
    for i, (thing, other) in enumerate(zip(scene.things, matched, strict=True), start=1):
        for kind in ("colour", "shape", "size", "place"):
            if getattr(thing, kind) is not None:
                facts[f"{i} {kind}"] = getattr(thing, kind) == getattr(other, kind)
    if scene.relation is not None:
        facts["relation"] = _holds(matched[0], matched[1], scene.relation)
    return facts


def _holds(first: Thing, second: Thing, relation: str) -> bool:
    """Whether the relation holds: far enough apart along it, and more so than across."""
    if first.box is None or second.box is None:
        return False
    (ax, ay), (bx, by) = _centre(first.box), _centre(second.box)
    right, down = RELATIONS[relation]
    along = (ax - bx) * right + (ay - by) * down
    across = abs((ax - bx) * down) + abs((ay - by) * right)
    return along >= APART and along > across


def _area(box: tuple[int, int, int, int] | None) -> int:
    return 0 if box is None else box[2] * box[3]


def _centre(box: tuple[int, int, int, int]) -> tuple[float, float]:
    left, top, width, height = box
    return left + width / 2, top + height / 2


def _colours(pixels: Shaped[np.ndarray, "n 3 h w"]) -> Bool[np.ndarray, "n k h w"]:
    """Which pixels show which colour of the palette; mixtures with the ground go to the colour."""
    ground = np.asarray(GROUND, np.float32)
    directions = np.asarray(list(PALETTE.values()), np.float32) - ground  # [k 3]
    length = (directions**2).sum(1)
    off = pixels.astype(np.float32) - ground[:, None, None]
    share = np.einsum("kc,nchw->nkhw", directions / length[:, None], off)
    stray = (off**2).sum(1, keepdims=True) - share**2 * length[:, None, None]
    nearest = stray == stray.min(1, keepdims=True)
    close = stray <= STRAY**2 * length[:, None, None]
    return nearest & close & (share >= HALF)


def _thing(mask: Bool[np.ndarray, "h w"], colour: str, left: int, top: int, side: int) -> Thing:
    """What a connected patch of one colour is."""
    height, width = mask.shape
    box = (left, top, width, height)
    size = "small" if (width + height) / 2 < BOUND else "large"
    sides = tuple(
        0 if abs(at - side / 2) < CENTRE else int(np.sign(at - side / 2)) for at in _centre(box)
    )
    place = next((phrase for phrase, where in PLACES.items() if where == sides), None)
    return Thing(colour, _shape(mask), size, place, box)


def _shape(mask: Bool[np.ndarray, "h w"]) -> str | None:
    """A shape by the share of its box that it fills and by its rows from top to bottom."""
    height, width = mask.shape
    if not 0.7 <= width / height <= 1.43:
        return None
    # Width by row: a triangle widens downwards, a square and a circle don't.
    rows = mask.sum(1) / width
    third = max(1, height // 3)
    slope = rows[-third:].mean() - rows[:third].mean()
    fill = rows.mean()
    if slope > 0.35:
        return "triangle" if fill < 0.72 else None
    if abs(slope) > 0.2:
        return None
    if fill >= 0.91:
        return "square"
    return "circle" if fill >= 0.62 else None
