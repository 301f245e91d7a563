"""The little language of captioned scenes: one or two coloured things on a dark ground.

`data/sources/shapes.py` renders a scene and `metrics/scenes.py` detects it. Neither imports the
other, so the words and colours that both use are here.
"""

from typing import NamedTuple

from pathline.hints import nearest

SIDE = 32  # pixels of a scene's edge
GROUND = (18, 18, 24)
PALETTE = {
    "red": (235, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 240),
    "yellow": (245, 215, 40),
    "purple": (205, 50, 215),
    "cyan": (50, 210, 225),
    "pink": (250, 140, 180),
    "lime": (150, 230, 40),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 10, "large": 16}  # extents in pixels
PLACES = {  # phrase -> the side of the middle on which the thing's centre lies (x, y)
    "at the top left": (-1, -1),
    "at the top right": (1, -1),
    "at the bottom left": (-1, 1),
    "at the bottom right": (1, 1),
    "in the middle": (0, 0),
}
RELATIONS = {  # phrase -> direction from the second thing to the first (x, y)
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
FORM = (
    "'a [small|large] COLOUR SHAPE', then nothing, a place, or a relation and a second thing; "
    f"colours {', '.join(PALETTE)}; shapes {', '.join(SHAPES)}; "
    f"places {', '.join(PLACES)}; relations {', '.join(RELATIONS)}"
)


class Thing(NamedTuple):
    """One object; what is None was not said (or, in what a detector found, not recognised)."""

    colour: str | None
    shape: str | None
    size: str | None = None
    place: str | None = None
    box: tuple[int, int, int, int] | None = None  # left, top, width, height in pixels


class Scene(NamedTuple):
    """One or two things; the relation is the first's position relative to the second."""

    things: tuple[Thing, ...]
    relation: str | None = None


def caption(scene: Scene) -> str:
    """The caption of a scene, without attributes that are None."""
    phrases = [_phrase(thing) for thing in scene.things]
    return f" {scene.relation} ".join(phrases)


def _phrase(thing: Thing) -> str:
    words = ("a", thing.size, thing.colour, thing.shape, thing.place)
    return " ".join(word for word in words if word is not None)


def parse(text: str) -> Scene:
    """The scene that a caption asks for, free attributes None, boxes None.

    Raises ValueError naming the word that does not fit, and the grammar.
    """
    words = text.lower().strip().rstrip(".").split()
    first, at = _read_thing(words, 0, text)
    if at == len(words):
        return Scene((first,))
    # After the first thing a place, or a relation to a second thing.
    place = _match(words, at, PLACES)
    if place is not None:
        _end(words, at + len(place.split()), text)
        return Scene((first._replace(place=place),))
    relation = _match(words, at, RELATIONS)
    if relation is None:
        raise ValueError(_complaint(text, words, at, (*PLACES, *RELATIONS)))
    second, at = _read_thing(words, at + len(relation.split()), text)
    _end(words, at, text)
    return Scene((first, second), relation)


def _read_thing(words: list[str], at: int, text: str) -> tuple[Thing, int]:
    """The thing whose words begin at `at`, and where they end."""
    if at >= len(words) or words[at] not in ("a", "an"):
        raise ValueError(_complaint(text, words, at, ("a",)))
    at += 1
    size = words[at] if at < len(words) and words[at] in SIZES else None
    at += size is not None
    attributes = []
    for vocabulary in (tuple(PALETTE), SHAPES):
        if at >= len(words) or words[at] not in vocabulary:
            raise ValueError(_complaint(text, words, at, vocabulary))
        attributes.append(words[at])
        at += 1
    return Thing(attributes[0], attributes[1], size), at


def _match(words: list[str], at: int, phrases: dict[str, tuple[int, int]]) -> str | None:
    """The phrase that stands at `at`, if any."""
    rest = " ".join(words[at:]) + " "
    return next((phrase for phrase in phrases if rest.startswith(phrase + " ")), None)


def _end(words: list[str], at: int, text: str) -> None:
    if at < len(words):
        raise ValueError(_complaint(text, words, at, ()))


def _complaint(text: str, words: list[str], at: int, expected: tuple[str, ...]) -> str:
    came = f"word {at + 1}, {words[at]!r}, does not fit" if at < len(words) else "it ends too early"
    hint = nearest(words[at], expected) if at < len(words) else ""
    instead = f"; expected {' | '.join(expected)}" if expected else "; nothing may follow here"
    return f"cannot score the prompt {text!r}: {came}{instead}.{hint} The grammar is {FORM}"
