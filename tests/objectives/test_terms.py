"""Loss terms: what they are at known errors, and that they compose by weight."""

import pytest
import torch

from pathline.objectives.terms import TERMS, compose
from pathline.types import Output, Point


def point(v):
    return Point(v, v, torch.zeros(len(v)), v, v)


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    v = torch.randn(5, 3, 4, 4, generator=rng)
    return point(v), Output((v + 0.5).requires_grad_())


def test_values_at_a_constant_error(pair):
    assert TERMS["mse"](*pair).tolist() == pytest.approx([0.25] * 5)
    assert TERMS["l1"](*pair).tolist() == pytest.approx([0.5] * 5)
    assert TERMS["huber"](*pair).tolist() == pytest.approx([0.125] * 5)


def test_cosine_sees_direction_only(pair):
    given, _ = pair
    same = TERMS["cosine"](given, Output(given.v * 3))
    against = TERMS["cosine"](given, Output(-given.v))
    assert same.abs().max() < 1e-6
    assert (against - 2).abs().max() < 1e-6


@pytest.mark.parametrize("name", TERMS)
def test_no_error_no_loss_and_the_gradient_arrives(name, pair):
    given, out = pair
    assert TERMS[name](given, Output(given.v)).abs().max() < 1e-6
    TERMS[name](given, out).sum().backward()
    assert out.value.grad.abs().sum() > 0


def test_weight_0_is_the_plain_loss(pair):
    plain, _ = compose({"mse": (1.0, TERMS["mse"])})(*pair)
    both, seen = compose({"mse": (1.0, TERMS["mse"]), "l1": (0.0, TERMS["l1"])})(*pair)
    weighted, _ = compose({"mse": (1.0, TERMS["mse"]), "l1": (2.0, TERMS["l1"])})(*pair)
    assert both == plain
    assert seen["l1"].item() == pytest.approx(0.5)
    assert weighted.item() == pytest.approx(plain.item() + 1.0)


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no term"):
        compose({})
