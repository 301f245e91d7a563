"""The little language of scenes: what is said can be read back, and nothing else is taken."""

from itertools import product

import pytest

from pathline.scene_grammar import (
    PALETTE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    caption,
    parse,
)


def test_every_scene_that_can_be_said_is_read_back():
    things = [Thing(c, s, z) for c, s, z in product(PALETTE, SHAPES, [None, *SIZES])]
    alone = [Scene((t._replace(place=p),)) for t, p in product(things, [None, *PLACES])]
    pairs = [Scene((a, b), r) for a, b, r in product(things[::5], things[::7], RELATIONS)]
    for scene in alone + pairs:
        assert parse(caption(scene)) == scene


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a red circle", Scene((Thing("red", "circle"),))),
        ("A red circle left of a blue square.",
         Scene((Thing("red", "circle"), Thing("blue", "square")), "left of")),
        ("a small red circle at the top left",
         Scene((Thing("red", "circle", "small", "at the top left"),))),
        ("a large green triangle above a small yellow circle",
         Scene((Thing("green", "triangle", "large"), Thing("yellow", "circle", "small")), "above")),
    ],
)  # fmt: skip
def test_examples(text, scene):
    assert parse(text) == scene


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a red hexagon", "'hexagon'"),
        ("a redd circle", "Did you mean 'red'?"),
        ("red circle", "word 1, 'red'"),
        ("a red circle left a blue square", "'left'"),
        ("a red circle in the middle of a blue square", "'of'"),
        ("a red circle above", "ends too early"),
        ("", "ends too early"),
        ("a red circle above a blue square at the top left", "'at'"),
    ],
)
def test_a_prompt_outside_names_the_word_and_the_grammar(text, named):
    with pytest.raises(ValueError, match="The grammar is") as error:
        parse(text)
    assert named in str(error.value)


def test_the_vocabulary_is_small():
    phrases = [*PALETTE, *SHAPES, *SIZES, *PLACES, *RELATIONS, "a"]
    assert len({word for phrase in phrases for word in phrase.split()}) < 30
