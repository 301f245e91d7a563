"""Exponential averages: constants stay, a ramp's average is the closed form, lending gives back."""

import pytest
import torch
from torch import nn

from pathline.training.ema import exponential
from pathline.training.power_ema import power_function


@pytest.mark.parametrize("average", [exponential, power_function])
def test_constant_weights_equal_their_average(average):
    network = nn.Linear(3, 2)
    ema = average(network, 0.1)
    for n in range(50):
        ema.update(network, n)
    for name, p in network.named_parameters():
        torch.testing.assert_close(ema.weights[name], p.detach())


def test_a_long_average_of_a_ramp_lags_by_the_known_amount():
    network, decay = nn.Linear(1, 1, bias=False).double(), 0.5
    nn.init.zeros_(network.weight)
    ema = exponential(network, decay)
    for n in range(200):
        network.weight.data.fill_(float(n))
        ema.update(network, n)
    lag = 199 - ema.weights["weight"].item()
    assert lag == pytest.approx(decay / (1 - decay), rel=1e-4)


def test_the_first_updates_are_ramped():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = exponential(network, 0.9999)
    network.weight.data.fill_(1.0)
    ema.update(network, 0)
    assert ema.weights["weight"].item() == pytest.approx(0.9)  # decay 1/10


def test_averages_are_float32_whatever_the_network():
    network = nn.Linear(2, 2).bfloat16()
    assert {w.dtype for w in exponential(network, 0.9).weights.values()} == {torch.float32}


def test_lending_gives_the_own_weights_back_even_after_an_error():
    network = nn.Linear(2, 2)
    ema = exponential(network, 0.9)
    before = network.weight.detach().clone()
    ema.weights["weight"].fill_(7.0)
    seen = []

    def fail():
        with ema.lent_to(network):
            seen.append(network.weight.detach().clone())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (seen[0] == 7).all()
    assert torch.equal(network.weight, before)
    assert (ema.weights["weight"] == 7).all()
