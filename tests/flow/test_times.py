"""What the draws draw and the grids lay out."""

import itertools
import math

import pytest
import torch

from pathline.flow.times import DRAWS, GRIDS, edm, explicit, resolution_shift, shifted, uniform_grid

DRAW = pytest.mark.parametrize("name", DRAWS)
X1 = torch.zeros(40_000, 1)


def drawn(name, x1=X1, **settings):
    return DRAWS[name](x1, torch.Generator().manual_seed(5), **settings)


@DRAW
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_draws_lie_in_0_to_1(name, shift):
    t = drawn(name, shift=shift)
    assert t.shape == (40_000,)
    assert t.dtype == torch.float32
    assert t.min() >= 0
    assert t.max() <= 1


@DRAW
def test_shift_moves_every_draw_alike(name):
    t = drawn(name)
    assert torch.equal(drawn(name, shift=3.0), shifted(t, 3.0))
    assert drawn(name, shift=3.0).mean() < t.mean() < drawn(name, shift=0.5).mean()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("name", "settings", "median"),
    [
        ("uniform", {}, 0.5),
        ("stratified", {}, 0.5),
        ("mode", {}, 0.5),
        ("logit_normal", {}, 0.5),
        ("logit_normal", {"mean": -0.8, "std": 0.8}, sigmoid(-0.8)),
        ("skewed", {}, sigmoid(1.2)),
        ("uniform", {"shift": 3.0}, 0.25),
    ],
)
def test_medians(name, settings, median):
    assert drawn(name, **settings).median() == pytest.approx(median, abs=0.01)


def test_variances():
    uniform = drawn("uniform").var()
    assert uniform == pytest.approx(1 / 12, rel=0.02)
    assert drawn("mode").var() < uniform < drawn("mode", scale=-0.9).var()
    assert torch.equal(drawn("mode", scale=0.0), drawn("uniform"))
    assert drawn("logit_normal", std=0.1).std() == pytest.approx(0.025, rel=0.03)


def test_skewed_is_logit_normal_from_the_other_side():
    a, b = drawn("skewed"), drawn("logit_normal", mean=1.2, std=1.2)
    assert a.mean() == pytest.approx(b.mean().item(), abs=0.01)
    assert a.std() == pytest.approx(b.std().item(), abs=0.01)


def test_stratified_puts_one_in_each_part():
    t = drawn("stratified", torch.zeros(64, 1))
    assert sorted((t * 64).long().tolist()) == list(range(64))
    assert not torch.equal(t, t.sort().values)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("shift", [0.5, 1.0, 6.93])
def test_grids_rise_from_0_to_1(name, steps, shift):
    times = {"times": tuple(i / steps for i in range(steps + 1))} if name == "explicit" else {}
    grid = GRIDS[name](steps, shift=shift, **times)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(t < t_next for t, t_next in itertools.pairwise(grid))
    assert all(type(t) is float for t in grid)


def test_shift():
    assert shifted(0.3, 1.0) == 0.3
    assert shifted(0.5, 3.0) == 0.25
    assert (shifted(0.0, 3.0), shifted(1.0, 3.0)) == (0, 1)
    assert uniform_grid(4, shift=3.0)[2] == 0.25
    assert shifted(shifted(0.3, 2.0), 0.5) == pytest.approx(0.3)


def test_shift_is_diffusers_shift_seen_from_the_noise():
    k = 3.0
    assert [1 - t for t in uniform_grid(4, shift=k)] == pytest.approx([1, 0.9, 0.75, 0.5, 0])


@pytest.mark.parametrize(
    ("size", "shift"),
    [((4, 32, 32), 1.0), ((16, 32, 32), 2.0), ((32, 16, 16), 1.414), ((768, 16, 16), 6.928)],
)
def test_resolution_shift_as_published(size, shift):
    assert resolution_shift(*size) == pytest.approx(shift, abs=1e-3)


def test_small_data_is_not_shifted():
    assert resolution_shift(1, 8, 8) == 1


def test_edm_grid_is_its_noise_levels():
    grid = edm(18)
    levels = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert grid[1:18] == pytest.approx([1 / (1 + s) for s in levels[1:]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: explicit(3, times=(0.0, 0.5, 0.5, 1.0)), "must increase, but 0.5"),
        (lambda: explicit(2, times=(0.0, 1.5, 1.0)), "must increase"),
        (lambda: explicit(2, times=(0.1, 0.5, 1.0)), "begins with 0"),
        (lambda: explicit(1, times=()), "begins with 0"),
    ],
)
def test_bad_settings_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
