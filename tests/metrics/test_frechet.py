"""Closed forms, symmetry, and agreement with scipy's matrix square root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from pathline.metrics.frechet import Statistics, frechet, statistics


def normal(mean, cov):
    return Statistics(mean.double(), cov.double(), 100)


@pytest.fixture
def features():
    rng = torch.Generator().manual_seed(3)
    mix = torch.randn(12, 12, generator=rng)
    return torch.randn(200, 12, generator=rng) @ mix, 0.5 + torch.randn(300, 12, generator=rng)


def test_a_shift_costs_its_square():
    assert frechet(normal(torch.zeros(3), torch.eye(3)), normal(torch.ones(3), torch.eye(3))) == (
        pytest.approx(3)
    )


@pytest.mark.parametrize("width", [1, 5, 64])
def test_twice_the_spread_costs_the_width(width):
    zero, one = torch.zeros(width), torch.eye(width)
    assert frechet(normal(zero, one), normal(zero, 4 * one)) == pytest.approx(width)


def test_commuting_covariances():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.0])
    wanted = (a.sqrt() - b.sqrt()).square().sum().item()
    zero = torch.zeros(3)
    assert frechet(normal(zero, a.diag()), normal(zero, b.diag())) == pytest.approx(wanted)


def test_as_scipy(features):
    a, b = (statistics(f) for f in features)
    root = np.real(sqrtm(a.cov.numpy() @ b.cov.numpy()))
    wanted = (a.mean - b.mean).square().sum() + (a.cov + b.cov).trace() - 2 * np.trace(root)
    assert frechet(a, b) == pytest.approx(wanted.item(), rel=1e-10)


def test_symmetric_and_zero_at_itself(features):
    a, b = (statistics(f) for f in features)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_fewer_pictures_than_features(features):
    few = statistics(features[0][:5])
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    still = statistics(torch.ones(5, 4))
    assert frechet(still, still) == 0


def test_statistics_are_numpys(features):
    found = statistics(features[0])
    assert found.n == 200
    assert found.cov.dtype == torch.float64
    assert np.allclose(found.mean, features[0].double().numpy().mean(0))
    assert np.allclose(found.cov, np.cov(features[0].double().numpy(), rowvar=False))


def test_half_precision_is_widened():
    big = 1000 + torch.arange(8.0).view(8, 1).half()
    assert statistics(big).cov.item() == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics(torch.zeros(1, 3)), "at least 2"),
        (lambda: statistics(torch.tensor([[0.0], [float("nan")]])), "1 of 2"),
        (
            lambda: frechet(statistics(torch.eye(3)), statistics(torch.eye(4))),
            "width 3 against width 4",
        ),
    ],
)
def test_bad_sets_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
