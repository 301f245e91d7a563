"""All measures of a set together: at itself, shifted, in halves, and for too few pictures."""

import pytest
import torch

from pathline.metrics import scores as room
from pathline.metrics.scores import baseline, cautions, measure

NAMES = {"frechet", "kid", "precision", "recall", "density", "coverage"}


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_set_against_itself():
    real = normal(200, 5, 0)
    found = measure(real, real.clone())
    assert set(found) == NAMES
    assert found["frechet"] == pytest.approx(0, abs=1e-9)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["kid"] < 0  # the unbiased one of a set with itself
    assert all(type(value) is float for value in found.values())


def test_a_shift_costs_its_square():
    real, shift = normal(300, 5, 0), torch.tensor([0.5, 0, -1, 0, 2])
    moved = measure(real, real + shift)
    assert moved["frechet"] == pytest.approx(shift.square().sum().item(), abs=1e-6)
    assert moved["kid"] > 0.1
    assert moved["precision"] < 0.9


def test_the_baseline_is_what_halves_give():
    real = normal(400, 5, 0)
    found = baseline(real, seed=3)
    assert found == baseline(real, seed=3)
    assert found != baseline(real, seed=4)
    assert found["frechet"] < 0.2
    assert found["coverage"] > 0.8
    assert measure(real, real + 1)["frechet"] > 10 * found["frechet"]


def test_larger_sets_are_thinned_for_all_but_frechet(monkeypatch):
    monkeypatch.setattr(room, "MOST", 50)
    real, drawn = normal(120, 3, 0), normal(90, 3, 1)
    found, other = (measure(real, drawn, seed=seed) for seed in (1, 2))
    assert found == measure(real, drawn, seed=1)
    assert found["frechet"] == other["frechet"]
    assert found["kid"] != other["kid"]
    assert any("of 50 random images" in line for line in cautions(real, drawn))


def test_few_pictures_are_measured_as_far_as_they_go():
    assert set(measure(normal(2, 3, 0), normal(9, 3, 1))) == {"frechet", "kid"}
    assert set(measure(normal(5, 3, 0), normal(9, 3, 1))) == NAMES - {"density", "coverage"}
    told = "\n".join(cautions(normal(2, 3, 0), normal(9, 3, 1)))
    assert "fewer than the feature's width 3" in told
    assert "2 real against 9 sampled" in told
    assert "precision and recall need at least 4" in told
    assert cautions(normal(50, 3, 0), normal(50, 3, 1)) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure(normal(1, 3, 0), normal(9, 3, 1)), "real images has 1"),
        (lambda: measure(normal(9, 3, 0), normal(0, 3, 1)), "sampled images has 0"),
        (lambda: baseline(normal(3, 3, 0)), "at least 4"),
    ],
)
def test_a_set_of_one_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
