"""dopri5 keeps its tolerance, counts its evaluations and agrees with torchdiffeq."""

import pytest
import torch

from pathline.flow.adaptive import ERROR, NODES, dopri5
from pathline.flow.solvers import counted, integrate, last, rk4
from pathline.flow.times import uniform_grid


@pytest.fixture
def x(rng):
    return torch.randn(32, 2, generator=rng, dtype=torch.float64)


def test_coefficients():
    for node, row in NODES:
        assert sum(row) == pytest.approx(node)
    assert sum(ERROR) == pytest.approx(0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_tolerance_is_kept(tolerance, mixture, x):
    exact = last(integrate(mixture, x, uniform_grid(400), rk4))
    found = last(dopri5(mixture, x, rtol=tolerance, atol=tolerance))
    assert (found - exact).abs().max() < 20 * tolerance


def test_a_tighter_tolerance_costs_more(mixture, x):
    spent = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        field, calls = counted(mixture)
        last(dopri5(field, x, rtol=tolerance, atol=tolerance))
        spent.append(calls())
        assert (calls() - 2) % 6 == 0  # two to begin, six a step: the seventh serves the next
    assert spent == sorted(set(spent))


def test_as_torchdiffeq(mixture, x):
    odeint = pytest.importorskip("torchdiffeq").odeint
    ours, mine = counted(mixture)
    theirs, yours = counted(mixture)
    found = last(dopri5(ours, x, rtol=1e-8, atol=1e-8))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    wanted = odeint(
        lambda t, x: theirs(x, t.item()), x, ends, rtol=1e-8, atol=1e-8, method="dopri5"
    )[-1]
    assert torch.allclose(found, wanted, atol=1e-6)
    assert mine() < 1.5 * yours()


def test_states_rise_and_arrive(gaussian, x):
    field, flow = gaussian(1.0, 0.1)
    states = list(dopri5(field, x, rtol=1e-6, atol=1e-6))
    times = [t for t, _ in states]
    assert times == sorted(set(times))
    assert (times[0], times[-1]) == (0.0, 1.0)
    for t, state in states:
        assert torch.allclose(state, flow(x, 0.0, t), atol=1e-4)


def test_no_time_beyond_the_end_is_asked(mixture, x):
    times = []
    for start in (0.0, 0.1, 0.3, 0.7):
        last(dopri5(lambda x, t: times.append(t) or mixture(x, t), x, start))
    assert max(times) == 1.0


def test_part_of_the_way_and_back_in_float32(gaussian, x):
    field, flow = gaussian(1.0, 0.5)
    found = last(dopri5(field, x.float(), 0.25, 0.75, rtol=1e-5, atol=1e-5))
    assert found.dtype == torch.float32
    assert torch.allclose(found, flow(x, 0.25, 0.75).float(), atol=1e-4)


def test_the_worst_picture_decides(x):
    """One hard picture among many easy ones gets the steps that it needs."""

    def field(x, t):
        return torch.cat([40 * torch.cos(40 * t * x[:1] ** 0), 0 * x[1:]])

    exact = torch.sin(torch.tensor(40.0, dtype=torch.float64)) + x[0]
    found = last(dopri5(field, x.repeat(100, 1), rtol=1e-5, atol=1e-5))[0]
    assert torch.allclose(found, exact, atol=1e-3)


def test_a_still_field_is_walked_at_once(x):
    field, calls = counted(lambda x, _: 0 * x)
    assert torch.equal(last(dopri5(field, x)), x)
    assert calls() < 60


@pytest.mark.parametrize(
    ("field", "settings", "words"),
    [
        (lambda x, t: x / 0 if t > 0.5 else x, {}, "not finite"),
        (lambda x, t: torch.cos(3000 * x + 3000 * t), {"limit": 200}, "limit=200 is too small"),
    ],
)
def test_trouble_is_named(field, settings, words, x):
    with pytest.raises(ValueError, match=words):
        last(dopri5(field, x, **settings))
