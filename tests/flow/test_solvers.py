"""Measured orders, closed forms, marginals, and agreement with other implementations."""

import functools
import itertools
import warnings

import pytest
import torch

from pathline.config.pick import function_of
from pathline.flow import solvers
from pathline.flow.paths import PATHS, STRAIGHT, x1_from_velocity
from pathline.flow.solvers import DIFFUSIONS, STEPS, Solver, counted, euler, integrate, last
from pathline.flow.times import uniform_grid

# name: (order on an interior interval, order from 0 to 1, evaluations for 8 steps)
ORDERS = {
    "euler": (1, 1, 8),
    "midpoint": (2, 2, 16),
    "heun": (2, 2, 16),
    "rk4": (4, 4, 32),
    "adams2": (2, 2, 8),
    "dpmpp2m": (2, 1.7, 8),  # log-SNR has no end at 0 and 1: the steps there are of first order
    "unipc2": (3, 2, 8),  # corrected steps are of third order; the last one is never corrected
}
NOISY = ("ancestral", "sde")
ORDERLY = pytest.mark.parametrize("name", ORDERS)


def inner(n):
    return [0.05 + 0.9 * i / n for i in range(n + 1)]


GRIDS = (inner, uniform_grid)


def drawn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def test_every_step_is_tested():
    assert set(STEPS) == {*ORDERS, *NOISY, "jump"}


@pytest.fixture(scope="module")
def walked_finely(mixture):
    """Walkers, and where they end on the inner and on the whole interval."""
    x = drawn(torch.Generator().manual_seed(1), 16, 2)
    return x, [last(integrate(mixture, x, grid(300), function_of(STEPS["rk4"]))) for grid in GRIDS]


@ORDERLY
@pytest.mark.parametrize("whole", [False, True], ids=["inner", "whole"])
def test_order(name, whole, mixture, walked_finely, slope):
    x, exact = walked_finely
    errors = [
        (last(integrate(mixture, x, GRIDS[whole](n), function_of(STEPS[name]))) - exact[whole])
        .norm()
        .item()
        for n in (48, 96)
    ]
    assert slope(errors)[0] == pytest.approx(ORDERS[name][whole], abs=0.15)


@ORDERLY
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_order_on_every_path(name, path, gaussian, rng, slope):
    x = drawn(rng, 8, 2)
    field, flow = gaussian(*torch.tensor([[1.0, -2.0], [0.5, 1.5]]).double(), path)
    exact = flow(x, 0.05, 0.95)
    errors = [
        (last(integrate(field, x, inner(n), function_of(STEPS[name]), path=path)) - exact)
        .norm()
        .item()
        for n in (64, 128)
    ]
    order = 3 if name == "midpoint" and path is STRAIGHT else ORDERS[name][0]  # known to be lucky
    assert slope(errors)[0] == pytest.approx(order, abs=0.25)


@ORDERLY
def test_evaluations(name, mixture, rng):
    field, calls = counted(mixture)
    last(integrate(field, drawn(rng, 4, 2), uniform_grid(8), function_of(STEPS[name])))
    assert calls() == ORDERS[name][2]


@pytest.mark.parametrize("name", STEPS)
def test_the_end_of_a_step_is_evaluated_by_the_rows_that_say_so(name, mixture, noise, rng):
    """By `evaluates_end` an x1-prediction's last step is replaced: its velocity at 1 is 0 / 0."""
    row, times = STEPS[name], []

    def field(x, t, *_):
        times.append(t)
        return mixture(x, t)

    last(integrate(field, drawn(rng, 4, 2), uniform_grid(4), function_of(STEPS[name]), noise))
    assert (max(times) == 1) == (isinstance(row, Solver) and row.evaluates_end)
    assert all(type(t) is float for t in times)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_both_ends_are_finite_and_the_dtype_stays(name, path, noise):
    for dtype, steps in itertools.product((torch.float32, torch.bfloat16), (1, 2, 5)):
        x = torch.ones(2, 1, 2, 2, dtype=dtype)
        walk = integrate(
            lambda x, *_: 1 - x, x, uniform_grid(steps), function_of(STEPS[name]), noise, path
        )
        for _, state in walk:
            assert state.isfinite().all()
            assert state.dtype == dtype


def test_states_come_first_to_last():
    x = torch.zeros(1, 1)
    states = list(integrate(lambda x, _: x + 1, x, (0.0, 0.25, 1.0)))
    assert [t for t, _ in states] == [0.0, 0.25, 1.0]
    assert [s.item() for _, s in states] == [0.0, 0.25, 0.25 + 0.75 * 1.25]
    assert last(iter(states)) is states[-1][1]


def test_a_walk_can_be_left():
    field, calls = counted(lambda x, _: x)
    walk = integrate(field, torch.ones(1, 1), uniform_grid(100))
    next(walk), next(walk)
    assert calls() == 1


def test_an_empty_walk_is_named():
    with pytest.raises(ValueError, match="no state"):
        last([])


@pytest.mark.parametrize(
    ("steps", "ratio"), [(1, 0), (2, 0.421), (4, 0.691), (8, 0.835), (16, 0.914), (50, 0.972)]
)
def test_euler_shrinks_as_known(steps, ratio, gaussian, rng):
    x = drawn(rng, 64, 1)
    found = last(integrate(gaussian(2.0, 0.3**0.5).field, x, uniform_grid(steps)))
    assert (found.std() / (x.std() * 0.3**0.5)).item() == pytest.approx(ratio, abs=5e-4)
    if steps == 1:
        assert torch.allclose(found, torch.full_like(found, 2.0))  # the mean of the data


def test_midpoint_and_rk4_are_exact_where_they_should_be(rng):
    x = drawn(rng, 4, 2)
    for name, power in (("midpoint", 1), ("heun", 1), ("rk4", 3)):
        field = lambda x, t, p=power: (p + 1) * t**p * torch.ones_like(x)  # noqa: E731
        assert torch.allclose(
            last(integrate(field, x, (0.0, 0.3, 1.0), function_of(STEPS[name]))), x + 1
        )


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_lambda_steps_begin_as_ddim(path, mixture, rng):
    """The first step of dpmpp2m is DDIM; on the straight path that is Euler."""
    x, t, t_next = drawn(rng, 8, 2), 0.2, 0.5
    found, _ = STEPS["dpmpp2m"](mixture, x, t, t_next, None, None, path)
    x1 = x1_from_velocity(path, mixture(x, t), x, t)
    x0 = (x - path.alpha(t) * x1) / path.sigma(t)
    assert torch.allclose(found, path.alpha(t_next) * x1 + path.sigma(t_next) * x0)
    if path is STRAIGHT:
        assert torch.allclose(found, euler(mixture, x, t, t_next, None)[0], atol=1e-14)
        assert torch.allclose(
            STEPS["ancestral"](mixture, x, t, t_next, None, None, path, eta=0.0)[0],
            euler(mixture, x, t, t_next, None)[0],
            atol=1e-14,
        )


def test_multistep_ends_are_of_first_order(mixture, rng):
    x = drawn(rng, 8, 2)
    for name in ("dpmpp2m", "unipc2"):
        _, (_, b), (_, c) = integrate(mixture, x, (0.0, 0.5, 1.0), function_of(STEPS[name]))
        assert torch.allclose(b, x + 0.5 * mixture(x, 0.0))
        if name == "dpmpp2m":
            assert torch.allclose(c, b + 0.5 * mixture(b, 0.5))


def test_jump_takes_the_average_velocity(gaussian, rng):
    x, (_, flow) = drawn(rng, 16, 1), gaussian(2.0, 0.5)

    def average(x, t, r):
        return (flow(x, t, r) - x) / (r - t)

    for steps in (1, 3):
        found = last(integrate(average, x, uniform_grid(steps), function_of(STEPS["jump"])))
        assert torch.allclose(found, flow(x, 0.0, 1.0))


# --- steps with noise ------------------------------------------------------------------------


def moments(step, field, noise, rng, steps, path=STRAIGHT):
    """Mean and std of 10,000 walkers half way and at the end."""
    x = torch.randn(10_000, 1, generator=rng, dtype=torch.float64)
    states = list(integrate(field, x, uniform_grid(steps), step, noise, path))
    return [(x.mean().item(), x.std().item()) for _, x in (states[steps // 2], states[-1])]


def expected(path, mean, std, t):
    return path.alpha(t) * mean, (path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2) ** 0.5


def keeps(found, path, mean, std, within):
    wanted = [expected(path, mean, std, t) for t in (0.5, 1.0)]
    return all(f == pytest.approx(w, abs=within) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_sde_keeps_the_marginals(diffusion, gaussian, noise, rng):
    step = functools.partial(STEPS["sde"], diffusion=diffusion)
    found = moments(step, gaussian(1.0, 0.5).field, noise, rng, 200)
    assert keeps(found, STRAIGHT, 1.0, 0.5, 0.025), found


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("name", NOISY)
def test_marginals_are_kept_on_every_path(name, path, gaussian, noise, rng):
    found = moments(function_of(STEPS[name]), gaussian(1.0, 0.5, path).field, noise, rng, 400, path)
    assert keeps(found, path, 1.0, 0.5, 0.03), found


def test_a_score_of_the_wrong_sign_is_found_out(gaussian, noise, rng, monkeypatch):
    right = solvers.score_from_velocity
    monkeypatch.setattr(solvers, "score_from_velocity", lambda *a: -right(*a))
    found = moments(STEPS["sde"], gaussian(1.0, 0.5).field, noise, rng, 200)
    assert not keeps(found, STRAIGHT, 1.0, 0.5, 0.3)


def test_sde_without_churn_is_euler(mixture, rng):
    x, calm = drawn(rng, 8, 2), functools.partial(STEPS["sde"], churn=0.0)
    found = last(integrate(mixture, x, uniform_grid(10), calm))
    assert torch.allclose(found, last(integrate(mixture, x, uniform_grid(10))))


@pytest.mark.parametrize("name", NOISY)
def test_the_last_step_draws_nothing(name, mixture, rng):
    draws = []

    def noise(x):
        draws.append(x)
        return torch.zeros_like(x)

    last(integrate(mixture, drawn(rng, 4, 2), uniform_grid(5), function_of(STEPS[name]), noise))
    assert len(draws) == 4


@pytest.mark.parametrize("name", ["sde", "ancestral"])
def test_a_missing_noise_is_named(name, mixture, rng):
    with pytest.raises(ValueError, match="noise function"):
        last(integrate(mixture, drawn(rng, 2, 2), uniform_grid(4), function_of(STEPS[name])))


# --- against diffusers -----------------------------------------------------------------------


def scheduler(name, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pytest.importorskip("diffusers"), name)(**settings)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}
SCHEDULERS = {
    "dpmpp2m": ("DPMSolverMultistepScheduler", {**FLOW, "flow_shift": 3.0}),
    "unipc2": ("UniPCMultistepScheduler", {**FLOW, "flow_shift": 3.0}),
}


def walked(theirs, field, x):
    """Their own loop over our field: sigma = 1 − t, and the velocity points to noise."""
    for sigma, step in zip(theirs.sigmas.tolist(), theirs.timesteps, strict=False):
        x = theirs.step(-field(x, 1 - sigma), step, x, return_dict=False)[0]
    return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of numpy
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [4, 10])
def test_multistep_as_diffusers(name, steps, mixture, rng):
    kind, settings = SCHEDULERS[name]
    theirs = scheduler(kind, **settings)
    theirs.set_timesteps(steps)
    grid, x = [1 - s for s in theirs.sigmas.tolist()], drawn(rng, 16, 2)
    assert torch.allclose(
        last(integrate(mixture, x, grid, function_of(STEPS[name]))),
        walked(theirs, mixture, x),
        atol=2e-6,
    )


def test_euler_as_diffusers(mixture, rng):
    theirs = scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)
    theirs.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x = drawn(rng, 16, 2)
    ours = last(integrate(mixture, x, uniform_grid(4, shift=3.0)))
    assert torch.allclose(ours.float(), walked(theirs, mixture, x).float(), atol=1e-5)
