"""Scenes: the same for ever, apart from each other, and as their captions say."""

from collections import Counter

import numpy as np
import pytest

from pathline.data.sources.shapes import (
    GAP,
    HELD_OUT,
    PAIRED,
    TRAINED,
    caption,
    draw,
    parse,
    prompts,
    scene,
)
from pathline.scene_grammar import PALETTE, RELATIONS, SHAPES, SIDE, SIZES, Scene, Thing

SCENES = [scene(3, i) for i in range(3000)]


def pairs(found):
    return {(thing.colour, thing.shape) for thing in found.things}


def test_a_scene_depends_on_seed_and_index_alone():
    assert [scene(3, i) for i in (7, 2, 7)] == [SCENES[7], SCENES[2], SCENES[7]]
    assert sum(scene(4, i) == SCENES[i] for i in range(100)) < 5
    first = caption(scene(0, 0))
    assert first == "a cyan square right of a purple square"  # golden: never change the stream


def test_held_out_pairs_are_never_seen_and_their_parts_often():
    seen = Counter(pair for s in SCENES for pair in pairs(s))
    assert not set(seen) & set(HELD_OUT)
    assert set(seen) == set(TRAINED)
    assert min(seen.values()) > 100
    assert {c for c, _ in TRAINED} == set(PALETTE)
    assert {s for _, s in TRAINED} == set(SHAPES)


def test_every_held_out_scene_has_a_held_out_pair():
    found = [scene(3, i, split="held_out") for i in range(500)]
    assert all(pairs(s) & set(HELD_OUT) for s in found)
    second = [s for s in found if len(s.things) == 2 and s.things[1][:2] in HELD_OUT]
    assert len(second) > 50  # in the second role too


def test_things_lie_inside_and_apart_in_the_direction_that_is_said():
    for s in SCENES:
        boxes = [thing.box for thing in s.things]
        for left, top, width, height in boxes:
            assert 1 <= left <= SIDE - 1 - width
            assert 1 <= top <= SIDE - 1 - height
        if s.relation is None:
            continue
        (ax, ay, aw, ah), (bx, by, bw, bh) = boxes
        clear = {"left of": bx - ax - aw, "right of": ax - bx - bw,
                 "above": by - ay - ah, "below": ay - by - bh}  # fmt: skip
        assert clear[s.relation] >= GAP
        off = np.array([ax + aw / 2 - bx - bw / 2, ay + ah / 2 - by - bh / 2])
        along = off @ np.array(RELATIONS[s.relation])
        assert along >= 2 * np.abs(off - along * np.array(RELATIONS[s.relation])).max()


def test_stated_sizes_are_the_drawn_ones_and_the_rest_is_free():
    alone = [s.things[0] for s in SCENES if s.relation is None]
    assert all(thing.box[2] == SIZES[thing.size] for thing in alone if thing.size)
    free = Counter(thing.box[2] for thing in alone if thing.size is None)
    assert set(free) == set(SIZES.values())
    paired = [thing for s in SCENES if s.relation for thing in s.things]
    assert {(thing.size, thing.box[2]) for thing in paired} == {(None, PAIRED)}


def test_captions_are_exact():
    for s in SCENES[:500]:
        assert parse(caption(s)) == Scene(tuple(t._replace(box=None) for t in s.things), s.relation)


def test_prompts_take_one_and_two_things_in_turn():
    asked = prompts("seen", 40, 1)
    assert [len(parse(text).things) for text in asked] == [1, 2] * 20
    assert asked[:10] == prompts("seen", 10, 1)
    assert all(pairs(parse(text)) & set(HELD_OUT) for text in prompts("held_out", 40))


def test_a_drawing_shows_the_colour_inside_and_the_ground_outside():
    thing = Thing("red", "square", box=(2, 5, 8, 8))
    picture = draw(Scene((thing,)))
    assert picture.dtype == np.uint8
    inside = picture[:, 5:13, 2:10]
    assert (inside == np.array(PALETTE["red"])[:, None, None]).all()
    assert (picture != picture[:, :1, :1]).any(0).sum() == 64


def test_wrong_asks():
    with pytest.raises(ValueError, match="'seen' or 'held_out'"):
        scene(0, 0, split="test")
    with pytest.raises(ValueError, match="needs a colour, a shape and a box"):
        draw(parse("a red circle"))
