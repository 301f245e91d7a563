"""Fields known in closed form: oracles for paths, solvers and objectives."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from pathline.flow.paths import STRAIGHT


class Oracle(NamedTuple):
    field: Callable  # (x, t) -> v
    flow: Callable  # (x, t, r) -> where x of time t is at time r


@pytest.fixture
def gaussian():
    """The flow of x1 ~ N(mean, std²), each coordinate alone, along any path."""

    def build(mean, std, path=STRAIGHT):
        def spread(t):
            return path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2

        def field(x, t):
            turn = path.alpha(t) * path.d_alpha(t) * std**2 + path.sigma(t) * path.d_sigma(t)
            return path.d_alpha(t) * mean + turn / spread(t) * (x - path.alpha(t) * mean)

        def flow(x, t, r):
            stretch = (spread(r) / spread(t)) ** 0.5
            return path.alpha(r) * mean + stretch * (x - path.alpha(t) * mean)

        return Oracle(field, flow)

    return build


@pytest.fixture(scope="session")
def mixture():
    """The velocity of a mixture of three Gaussians in the plane, straight path; not linear."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
    var = torch.tensor([0.16, 0.25, 0.36], dtype=torch.float64)

    def field(x, t):
        spread = t**2 * var + (1 - t) ** 2
        away = x[:, None] - t * means
        weight = (-away.square().sum(-1) / (2 * spread) - spread.log()).softmax(1)
        turn = (t * var - (1 - t)) / spread
        return (weight[..., None] * (means + turn[:, None] * away)).sum(1)

    return field


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def noise(rng):
    return lambda x: torch.randn(x.shape, generator=rng, dtype=x.dtype)


@pytest.fixture
def slope():
    """Order of convergence from errors at doubled numbers of steps."""
    return lambda errors: [math.log2(a / b) for a, b in pairwise(errors)]
