"""Optimizers fall on a quadratic; schedules start, warm up and end where they should."""

import pytest
from torch import nn

from pathline.training.optim import OPTIMIZERS, SCHEDULES


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_falls_on_a_quadratic(name):
    network = nn.Linear(4, 4)
    optimizer = OPTIMIZERS[name](network, lr=0.05)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = sum((p - 3).square().mean() for p in network.parameters())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_only_matrices_decay():
    network = nn.ModuleDict({"linear": nn.Linear(4, 4), "label_table": nn.Embedding(3, 4)})
    decayed, plain = OPTIMIZERS["adamw"](network, weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_a_straight_line_to_1(name):
    shares = [SCHEDULES[name](n, 1000, warmup=10) for n in range(11)]
    assert shares[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert shares[10] == pytest.approx(1)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_last_update_is_at_the_floor(name):
    assert SCHEDULES[name](999, 1000, warmup=10, floor=0.05) == pytest.approx(0.05)
    middle = SCHEDULES[name](505, 1001, warmup=10, floor=0.0)
    assert middle == pytest.approx(0.5, abs=1e-3)


def test_the_constant_schedule_stays():
    assert SCHEDULES["constant"](999, 1000) == 1
