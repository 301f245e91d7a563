"""The detector: right on real scenes, blind to noise, and not to be fooled by a swapped prompt."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from pathline.data.sources.shapes import caption, draw, prompts, scene
from pathline.metrics.scenes import adherence, attributes, order, read, swap
from pathline.scene_grammar import Scene, Thing, parse


@cache
def pictures(split, count=600):
    found = [scene(11, i, split=split) for i in range(count)]
    return torch.from_numpy(np.stack([draw(s) for s in found])), [caption(s) for s in found]


def spoilt(pixels, noise, blur):
    values = ndimage.gaussian_filter(pixels.numpy().astype(np.float32), (0, 0, blur, blur))
    values += np.random.default_rng(0).normal(0, noise, values.shape)
    return torch.from_numpy(np.clip(values, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_real_scenes_are_read_right(split):
    score = adherence(*pictures(split))
    assert score.n == 600
    assert score.exact >= 0.99
    assert min(score.kinds.values()) >= 0.99
    assert set(score.kinds) == {"count", "colour", "shape", "size", "place", "relation"}


@pytest.mark.parametrize(
    ("noise", "blur", "least"), [(8, 0.5, 0.99), (16, 0, 0.99), (8, 0.7, 0.97)]
)
def test_a_little_blur_and_noise_does_no_harm(noise, blur, least):
    pixels, said = pictures("seen")
    assert adherence(spoilt(pixels, noise, blur), said).exact >= least


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "empty", "white"])
def test_pictures_of_nothing_score_nothing(kind):
    rng = np.random.default_rng(1)
    shape = (100, 3, 32, 32)
    pixels = {
        "uniform": rng.integers(0, 256, shape),
        "gaussian": rng.normal(127, 60, shape).clip(0, 255),
        "empty": np.zeros(shape),
        "white": np.full(shape, 255),
    }[kind]
    score = adherence(torch.from_numpy(pixels.astype(np.uint8)), prompts("seen", 100))
    assert score.exact <= 0.02
    assert score.mean <= 0.05


def test_other_prompts_score_low():
    pixels, said = pictures("seen")
    assert adherence(pixels, said[1:] + said[:1]).exact < 0.05


def test_a_swapped_order_is_noticed():
    pixels, said = pictures("seen")
    two = [i for i, text in enumerate(said) if swap(text)]
    score = adherence(pixels[two], [swap(said[i]) or "" for i in two])
    assert score.kinds["relation"] < 0.1  # only pairs that look alike may pass
    assert score.exact < 0.1
    assert score.kinds["colour"] > 0.9


def test_swapping():
    assert swap("a red circle above a blue square") == "a blue square above a red circle"
    assert swap("a red circle") is None
    assert swap("a red circle above a red circle") is None


def test_order_is_told_and_a_model_blind_to_it_found_out():
    pixels, said = pictures("seen", 200)
    found = order(pixels, said)
    assert found is not None
    assert found.n == sum(len(parse(text).things) == 2 and swap(text) is not None for text in said)
    assert found.right > 0.98
    assert found.swapped < 0.1
    two = [i for i, text in enumerate(said) if swap(text)]
    blind = order(pixels[two], [(swap(said[i]) if i % 2 else said[i]) or "" for i in two])
    assert blind is not None
    assert abs(blind.right - blind.swapped) < 0.25
    assert order(pixels[:1], ["a red circle"]) is None


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("a small red circle at the top left", set()),
        ("a red square", {"1 shape"}),
        ("a blue circle", {"1 colour"}),
        ("a large red circle", {"1 size"}),
        ("a red circle in the middle", {"1 place"}),
        ("a red circle above a green square",
         {"count", "2 colour", "2 shape", "relation"}),
    ],
)  # fmt: skip
def test_each_atom_is_told_apart(said, wrong):
    pixels = torch.from_numpy(draw(Scene((Thing("red", "circle", box=(2, 3, 8, 8)),))))[None]
    (picture,) = adherence(pixels, [said]).pictures
    assert {name for name, right in picture.items() if not right} == wrong


def test_an_extra_thing_costs_the_count_alone():
    things = (Thing("red", "circle", box=(2, 3, 8, 8)), Thing("blue", "square", box=(18, 18, 8, 8)))
    (found,) = read(torch.from_numpy(draw(Scene(things)))[None])
    assert {(t.colour, t.shape, t.box) for t in found} == {
        (t.colour, t.shape, t.box) for t in things
    }
    facts = attributes(parse("a blue square at the bottom right"), found)
    assert facts == {"count": False, "1 colour": True, "1 shape": True, "1 place": True}


def test_a_shape_that_is_none_has_no_name():
    picture = draw(Scene((Thing("red", "square", box=(4, 4, 12, 12)),)))
    picture[:, 4:10, 4:10] = draw(Scene(()))[:, :1, :1]  # an L
    (found,) = read(torch.from_numpy(picture)[None])
    assert [thing.shape for thing in found] == [None]


def test_wrong_asks():
    with pytest.raises(ValueError, match="1 prompts for 2 images"):
        adherence(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["a red circle"])
    with pytest.raises(ValueError, match="'dog'"):
        adherence(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["a dog"])
    assert read(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)) == []
