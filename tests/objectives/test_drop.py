"""Conditions dropped row by row, together or apart."""

import pytest
import torch

from pathline.flow.couplings import independent
from pathline.flow.paths import STRAIGHT, draw_point
from pathline.flow.times import uniform_draw
from pathline.objectives.flow import drop, flow
from pathline.objectives.terms import TERMS, compose
from pathline.types import Batch, Cond, Output

ROWS = 20_000
MSE = compose({"mse": (1.0, TERMS["mse"])})


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def asked(rows=ROWS, length=8):
    mask = torch.ones(rows, length, dtype=torch.bool)
    return Cond(tokens=torch.ones(rows, length, 2), mask=mask, pooled=torch.ones(rows, 3))


def nothing(length=8):
    mask = torch.arange(length)[None] < 1
    return Cond(tokens=torch.zeros(1, length, 2), mask=mask, pooled=torch.zeros(1, 3))


def gone(cond):
    """Which rows lost their states, and which their pooled vector; each as a whole."""
    states, vectors = cond.tokens[:, :1, 0] == 0, cond.pooled[:, :1] == 0
    assert torch.equal((cond.tokens == 0).flatten(1), states.expand(-1, cond.tokens[0].numel()))
    assert torch.equal(cond.pooled == 0, vectors.expand(-1, 3))
    assert torch.equal(cond.mask.sum(1) == 1, states[:, 0])
    return states[:, 0], vectors[:, 0]


def test_one_encoder_falls_as_a_whole():
    states, vectors = gone(drop(asked(), nothing(), 0.3, rng()))
    assert torch.equal(states, vectors)
    assert states.float().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("share", "pooled"), [(0.447, 0.447), (0.1, 0.5), (0.0, 0.3), (0.3, 0.0)])
def test_two_encoders_fall_apart(share, pooled):
    states, vectors = gone(drop(asked(), nothing(), share, rng(), pooled))
    both = (states & vectors).float().mean().item()
    assert states.float().mean().item() == pytest.approx(share, abs=0.012)
    assert vectors.float().mean().item() == pytest.approx(pooled, abs=0.012)
    assert both == pytest.approx(share * pooled, abs=0.012)


def test_nothing_is_drawn_where_nothing_can_fall():
    cond, chance = asked(4), rng()
    before = chance.get_state()
    assert drop(cond, nothing(), 0.0, chance) is cond
    assert drop(cond, nothing(), 0.0, chance, 0.0) is cond
    assert torch.equal(chance.get_state(), before)


def test_states_fall_alike_with_and_without_a_share_for_the_pooled():
    together, apart = (drop(asked(), nothing(), 0.3, rng(), p) for p in (None, 0.5))
    assert torch.equal(together.tokens, apart.tokens)


def test_a_longer_null_pads_the_rest():
    found = drop(asked(3, 8), nothing(16), 1.0, rng(), 0.0)
    assert found.tokens.shape == (3, 16, 2)
    assert found.mask.sum(1).tolist() == [1, 1, 1]
    assert torch.equal(found.pooled, asked(3).pooled)


def test_a_null_that_lacks_a_part_is_refused():
    with pytest.raises(ValueError, match="the null has no pooled"):
        drop(asked(4), nothing()._replace(pooled=None), 0.5, rng())


def test_the_objective_hands_both_shares_on():
    seen = []

    def network(xt, _t, cond):
        seen.append(cond)
        return Output(xt)

    def draw(x1, cond, chance):
        ways = {"path": STRAIGHT, "draw": uniform_draw, "couple": independent}
        return draw_point(x1, cond, chance, **ways)

    batch = Batch(torch.zeros(64, 1, 1, 1), asked(64), nothing(), torch.arange(64))
    for options in ({"dropout": 0.0, "dropout_pooled": 1.0}, {"dropout": 1.0}):
        flow(STRAIGHT, **options).loss(network, batch, rng(), draw, MSE)
    first, second = map(gone, seen)
    assert (first[0].any().item(), first[1].all().item()) == (False, True)
    assert (second[0].all().item(), second[1].all().item()) == (True, True)
