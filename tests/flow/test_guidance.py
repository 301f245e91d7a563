"""Guidance: neutral settings change nothing, `other` is asked no more than needed."""

import pytest
import torch

from pathline.config.pick import function_of
from pathline.flow.guidance import GUIDANCE, Push, autoguidance, cfg, contrastive, interval, none
from pathline.flow.solvers import counted, heun, integrate, jump, last
from pathline.flow.times import uniform_grid

X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 1, 2, 2)


def field(x, t, *_):
    return 1 - x * t


def other(x, t, *_):
    return -x + t


def test_formula_on_every_channel():
    v, v_other = field(X, 0.3), other(X, 0.3)
    assert torch.allclose(cfg(field, other, scale=2.5)(X, 0.3), 2.5 * v - 1.5 * v_other)
    assert torch.equal(cfg(field, other, scale=0.0)(X, 0.3), v_other)


@pytest.mark.parametrize("row", [cfg, interval, autoguidance, contrastive])
def test_scale_1_is_the_field_itself(row):
    assert row(field, other, scale=1.0) is field
    assert row(field, None, scale=1.0) is field


def test_none_is_the_field_itself():
    assert none(field, other) is field


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0, torch.tensor([0.0, 0.4, 1.0])])
def test_the_whole_interval_is_plain(t):
    def at(x, t):
        return 1 - x * (t if isinstance(t, float) else t.view(-1, 1, 1, 1))

    a, b = (row(at, other_of, scale=3.0)(X, t) for row in (cfg, interval))
    assert torch.equal(a, b)


def other_of(x, _):
    return -x


def test_other_is_not_asked_outside():
    asked, calls = counted(other)
    guided = interval(field, asked, scale=3.0, low=0.3, high=0.7)
    for t in (0.0, 0.29, 0.71, 1.0):
        assert torch.equal(guided(X, t), field(X, t))
    assert calls() == 0
    for t in (0.3, 0.5, 0.7):
        assert not torch.equal(guided(X, t), field(X, t))
    assert calls() == 3


def test_over_a_walk_other_is_asked_only_inside():
    (one, ones), (two, twos) = counted(field), counted(other)
    last(integrate(interval(one, two, scale=2.0, low=0.45, high=0.75), X, uniform_grid(10), heun))
    assert ones() == 20
    assert twos() == 6  # 0.4 → 0.5 at its end, 0.5 and 0.6 twice, 0.7 at its beginning


def test_times_of_each_row_are_judged_alone():
    t = torch.tensor([0.1, 0.5, 0.9])
    guided = interval(lambda x, _: x, lambda x, _: 0 * x, scale=3.0, low=0.3, high=0.7)
    assert torch.equal(guided(X, t), X * torch.tensor([1, 3, 1]).view(-1, 1, 1, 1))


def test_a_later_time_is_handed_on():
    def average(x, t, r):
        return x * (r - t)

    guided = cfg(average, average, scale=2.0)
    assert torch.allclose(last(integrate(guided, X, (0.0, 1.0), jump)), 2 * X)


@pytest.mark.parametrize("name", ["cfg", "interval", "autoguidance", "contrastive"])
def test_a_missing_second_field_is_named(name):
    with pytest.raises(ValueError, match="second field"):
        function_of(GUIDANCE[name])(field, None, scale=2.0)


def test_a_bad_interval_is_named():
    with pytest.raises(ValueError, match=r"low=0.5 high=0.4 is wrong because low is above high"):
        interval(field, other, scale=2.0, low=0.5, high=0.4)


# --- contrastive


PUSH = Push(0.2, torch.linspace(-1, 1, 4, dtype=torch.float64).view(1, 2, 2))


def pushed(field, push=PUSH):
    """What the loss makes of a field."""
    return lambda x, t, *later: (field(x, t, *later) - push.share * push.mean) / (1 - push.share)


@pytest.mark.parametrize("t", [0.0, 0.5, torch.tensor([0.0, 0.4, 1.0])])
def test_contrastive_guidance_of_pushed_fields_is_cfg_of_the_plain_ones(t):
    def at(x, t):
        return 1 - x * (t if isinstance(t, float) else t.view(-1, 1, 1, 1))

    back = contrastive(pushed(at), pushed(other_of), PUSH, scale=2.5)(X, t)
    assert torch.allclose(back, cfg(at, other_of, scale=2.5)(X, t), atol=1e-7)
    raw = cfg(pushed(at), pushed(other_of), scale=2.5)(X, t)
    assert not torch.allclose(raw, back, atol=0.05)  # the control


def test_weight_0_is_interval_to_the_bit():
    ways = {"scale": 2.5, "low": 0.2, "high": 0.8}
    for t in (0.1, 0.5, torch.tensor([0.1, 0.5, 0.9])):
        back = contrastive(lambda x, _: 1 - x, other_of, PUSH, weight=0.0, **ways)(X, t)
        assert torch.equal(back, interval(lambda x, _: 1 - x, other_of, **ways)(X, t))


def test_outside_the_interval_the_push_stays():
    back = contrastive(field, other, PUSH, scale=2.0, low=0.3, high=0.7)
    for t in (0.0, 0.29, 0.71):
        assert torch.equal(back(X, t), field(X, t))
    t = torch.tensor([0.1, 0.5, 0.9])
    rows = contrastive(lambda x, _: x, other_of, PUSH, scale=2.0, low=0.3, high=0.7)(X, t)
    assert torch.equal(rows[[0, 2]], X[[0, 2]])
    assert torch.allclose(rows[1], 0.8 * 3 * X[1] + 0.2 * PUSH.mean, atol=1e-6)


def test_contrastive_takes_a_weight_of_its_own():
    own = contrastive(field, other, PUSH, scale=2.0)(X, 0.5)
    assert torch.equal(own, contrastive(field, other, PUSH, scale=2.0, weight=0.2)(X, 0.5))
    assert not torch.equal(own, contrastive(field, other, PUSH, scale=2.0, weight=0.1)(X, 0.5))
    with pytest.raises(ValueError, match="mean velocity"):
        contrastive(field, other, scale=2.0)
