"""Ends, derivatives, round trips and closed forms of the paths."""

import math

import pytest
import torch

from pathline.flow import paths
from pathline.flow.couplings import independent, optimal
from pathline.flow.paths import PATHS, STRAIGHT, VP
from pathline.flow.solvers import integrate, last, rk4
from pathline.flow.times import uniform_draw

EVERY = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
TIMES = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


@pytest.fixture
def pair(rng):
    return torch.randn(2, 25, 3, 4, 4, generator=rng, dtype=torch.float64)


@EVERY
@pytest.mark.parametrize("one", [float, lambda t: torch.tensor([t, t])])
def test_ends_are_exact(path, one):
    ends = [f(one(t)) for t in (0.0, 1.0) for f in (path.alpha, path.sigma)]
    noise_alpha, noise_sigma, data_alpha, data_sigma = (torch.as_tensor(e).max() for e in ends)
    assert (data_alpha, data_sigma) == (1, 0)
    if path is VP:  # ends near pure noise: α(0) = exp(−5.025)
        assert noise_alpha == pytest.approx(math.exp(-5.025))
        assert noise_sigma == pytest.approx(math.sqrt(1 - math.exp(-10.05)))
    else:
        assert (noise_alpha, noise_sigma) == (0, 1)


@EVERY
def test_variance_keeping_paths_keep_it(path):
    total = path.alpha(TIMES) ** 2 + path.sigma(TIMES) ** 2
    assert torch.allclose(total, torch.ones_like(total)) == (path is not STRAIGHT)


@EVERY
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jvp's own
def test_velocity_is_the_derivative(path, pair):
    x0, x1 = pair
    _, slope = torch.func.jvp(
        lambda t: paths.interpolate(path, x0, x1, t), (TIMES,), (torch.ones_like(TIMES),)
    )
    assert torch.allclose(paths.velocity(path, x0, x1, TIMES), slope, rtol=1e-12, atol=1e-12)


@EVERY
def test_float_and_tensor_times_agree(path, pair):
    x0, x1 = pair
    for t in (0.0, 0.3, 1.0):
        many = torch.full((25,), t, dtype=torch.float64)
        for f in (paths.interpolate, paths.velocity):
            assert torch.allclose(f(path, x0, x1, t), f(path, x0, x1, many), rtol=1e-14, atol=1e-14)


@EVERY
def test_conversions_round_trip(path, pair):
    x0, x1 = pair
    xt, v = paths.interpolate(path, x0, x1, TIMES), paths.velocity(path, x0, x1, TIMES)
    score = paths.score_from_velocity(path, v, xt, TIMES)
    found = {
        "x1": (paths.x1_from_velocity(path, v, xt, TIMES), x1),
        "x0": (paths.x0_from_velocity(path, v, xt, TIMES), x0),
        "v of x1": (paths.velocity_from_x1(path, x1, xt, TIMES), v),
        "v of x0": (paths.velocity_from_x0(path, x0, xt, TIMES), v),
        "v of score": (paths.velocity_from_score(path, score, xt, TIMES), v),
        "score": (score, -x0 / paths.like(path.sigma(TIMES), x0)),
    }
    for name, (got, want) in found.items():
        assert (got - want).abs().max() < 1e-12 * want.abs().max().clamp(min=1), name


@EVERY
def test_score_is_the_gradient_of_the_log_density(path, gaussian, rng):
    mean, std, t = 1.5, 0.4, 0.6
    x = torch.randn(9, 1, generator=rng, dtype=torch.float64)
    spread = path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2
    score = paths.score_from_velocity(path, gaussian(mean, std, path).field(x, t), x, t)
    assert torch.allclose(score, -(x - path.alpha(t) * mean) / spread, rtol=1e-12)


@EVERY
def test_closed_form_field_carries_noise_to_data(path, gaussian, rng):
    x = torch.randn(16, 2, generator=rng, dtype=torch.float64)
    oracle = gaussian(*torch.tensor([[2.0, -1.0], [0.5, 1.5]]).double(), path)
    stop = 1.0 if path is not VP else 0.99  # its velocity has no end at 1
    grid = [stop * i / 200 for i in range(201)]
    found = last(integrate(oracle.field, x, grid, rk4))
    assert torch.allclose(found, oracle.flow(x, 0.0, stop), atol=1e-4)


def test_the_straight_path_reads_as_the_papers_do(pair):
    (x0, x1), t = pair, TIMES
    xt, v, tt = paths.interpolate(STRAIGHT, x0, x1, t), x1 - x0, TIMES.view(-1, 1, 1, 1)
    assert torch.equal(paths.velocity(STRAIGHT, x0, x1, t), v)
    assert torch.allclose(paths.score_from_velocity(STRAIGHT, v, xt, t), (tt * v - xt) / (1 - tt))
    floored = (x1 - xt) / (1 - tt).clamp(min=0.05)
    assert torch.allclose(paths.velocity_from_x1(STRAIGHT, x1, xt, t, floor=0.05), floored)


@EVERY
def test_the_floor_keeps_the_ends_finite(path, pair):
    x0, x1 = pair
    ones = torch.ones(25, dtype=torch.float64)
    assert paths.velocity_from_x1(path, x0, x1, 1.0, floor=0.05).isfinite().all()
    assert paths.velocity_from_x1(path, x0, x1, ones, floor=0.05).isfinite().all()
    assert paths.score_from_velocity(path, x0, x1, ones, floor=0.05).isfinite().all()
    assert torch.allclose(paths.x1_from_velocity(path, x0, x1, 1.0), x1)
    with pytest.raises(ValueError, match="floor"):
        paths.velocity_from_x1(path, x0, x1, 1.0)


def at(time):
    return lambda x1, _: torch.full((len(x1),), time)


@EVERY
def test_a_drawn_point_is_of_the_path(path, rng):
    x1 = torch.randn(6, 1, 4, 4, generator=rng)
    drawn = {"path": path, "draw": uniform_draw, "couple": independent}
    point = paths.draw_point(x1, None, torch.Generator().manual_seed(3), **drawn)
    again = paths.draw_point(x1, None, torch.Generator().manual_seed(3), **drawn)
    assert all(torch.equal(a, b) for a, b in zip(point[:5], again[:5], strict=True))
    assert torch.equal(point.xt, paths.interpolate(path, point.x0, x1, point.t))
    assert torch.equal(point.v, paths.velocity(path, point.x0, x1, point.t))


def test_a_drawn_point_is_coupled(rng):
    x1 = torch.randn(8, 2, generator=rng)
    free, tied = (
        paths.draw_point(
            x1,
            None,
            torch.Generator().manual_seed(3),
            path=STRAIGHT,
            draw=uniform_draw,
            couple=couple,
        )
        for couple in (independent, optimal)
    )
    assert torch.equal(free.x0.sort(0).values, tied.x0.sort(0).values)
    assert tied.v.square().mean() < free.v.square().mean()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_no_field_beats_the_variance_that_is_left(gaussian, rng, t):
    """The loss at the optimum for x1 ~ N(1, s²) is Var(v | xt), known in closed form."""
    var = 0.3
    x1 = 1 + var**0.5 * torch.randn(200_000, 1, generator=rng)
    point = paths.draw_point(x1, None, rng, path=STRAIGHT, draw=at(t), couple=independent)
    loss = (gaussian(1.0, var**0.5).field(point.xt, t) - point.v).square().mean()
    left = 1 + var - (t * var - (1 - t)) ** 2 / (t**2 * var + (1 - t) ** 2)
    assert loss == pytest.approx(left, rel=0.02)
