"""Couplings permute, shorten, and stay inside their class."""

import pytest
import torch

from pathline.config.pick import function_of
from pathline.flow.couplings import COUPLINGS, independent, optimal, within_class
from pathline.types import Cond

LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 1, 1, 0, 3, 2, 0])


@pytest.fixture
def pair(rng):
    return torch.randn(2, 12, 3, 2, 2, generator=rng)


def cost(x0, x1):
    return (x0 - x1).square().sum().item()


def order(x0, coupled):
    """Which row of x0 each coupled row is."""
    return (coupled[:, None] == x0[None]).flatten(2).all(-1).float().argmax(1)


@pytest.mark.parametrize("name", COUPLINGS)
def test_every_row_is_used_once(name, pair):
    x0, x1 = pair
    coupled = function_of(COUPLINGS[name])(x0, x1, Cond(labels=LABELS))
    assert sorted(order(x0, coupled).tolist()) == list(range(12))
    assert torch.equal(coupled, x0[order(x0, coupled)])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["optimal", "within_class"])
def test_half_precision_around_it_changes_nothing(name, half, pair):
    x0, x1 = pair
    given = function_of(COUPLINGS[name])(x0, x1, Cond(labels=LABELS))
    with torch.autocast("cpu", half):
        assert torch.equal(function_of(COUPLINGS[name])(x0, x1, Cond(labels=LABELS)), given)


def test_shorter_with_more_freedom(pair):
    x0, x1 = pair
    free, within, best = (
        function_of(COUPLINGS[n])(x0, x1, Cond(labels=LABELS))
        for n in ("independent", "within_class", "optimal")
    )
    assert cost(best, x1) < cost(within, x1) < cost(free, x1)
    assert free is x0


def test_optimal_finds_the_pairing_that_made_the_pairs(pair, rng):
    x1, rows = pair[1], torch.randperm(12, generator=rng)
    assert torch.equal(optimal(x1[rows] + 1e-3, x1, None), x1 + 1e-3)


def test_optimal_sorts_on_a_line(rng):
    x0, x1 = torch.randn(2, 20, 1, generator=rng)
    assert torch.equal(optimal(x0, x1, None)[x1[:, 0].argsort()], x0.sort(0).values)


def test_within_class_stays_inside(pair):
    x0, x1 = pair
    rows = order(x0, within_class(x0, x1, Cond(labels=LABELS)))
    assert torch.equal(LABELS[rows], LABELS)
    free = order(x0, optimal(x0, x1, None))
    assert not torch.equal(LABELS[free], LABELS)  # without classes it would not


def test_within_one_class_is_optimal(pair):
    x0, x1 = pair
    one = within_class(x0, x1, Cond(labels=torch.zeros(12, dtype=torch.long)))
    assert torch.equal(one, optimal(x0, x1, None))


@pytest.mark.parametrize("name", COUPLINGS)
def test_a_batch_of_one_has_no_choice(name, pair):
    x0, x1 = pair[:, :1]
    assert torch.equal(function_of(COUPLINGS[name])(x0, x1, Cond(labels=LABELS[:1])), x0)


@pytest.mark.parametrize("cond", [None, Cond()])
def test_within_class_needs_labels(pair, cond):
    with pytest.raises(ValueError, match="reads no classes"):
        within_class(*pair, cond)


def test_independent_asks_for_nothing(pair):
    x0 = pair[0]
    assert independent(x0) is x0
