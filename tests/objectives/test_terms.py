"""Loss terms: what they are at known errors, and that they compose by weight."""

import math
from functools import partial

import pytest
import torch

from pathline.objectives.terms import TERMS, adaptive, compose, contrastive, dispersive, mse
from pathline.types import Output, Point

ERRORS = ("mse", "l1", "huber", "adaptive", "cosine")  # that are 0 without one


def point(v):
    return Point(v, v, torch.zeros(len(v)), v, v)


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    v = torch.randn(5, 3, 4, 4, generator=rng)
    return point(v), Output((v + 0.5).requires_grad_())


def test_values_at_a_constant_error(pair):
    assert TERMS["mse"](*pair).tolist() == pytest.approx([0.25] * 5)
    assert TERMS["l1"](*pair).tolist() == pytest.approx([0.5] * 5)
    assert TERMS["huber"](*pair).tolist() == pytest.approx([0.125] * 5)


def test_cosine_sees_direction_only(pair):
    given, _ = pair
    same = TERMS["cosine"](given, Output(given.v * 3))
    against = TERMS["cosine"](given, Output(-given.v))
    assert same.abs().max() < 1e-6
    assert (against - 2).abs().max() < 1e-6


@pytest.mark.parametrize("name", ERRORS)
def test_no_error_no_loss_and_the_gradient_arrives(name, pair):
    given, out = pair
    assert TERMS[name](given, Output(given.v)).abs().max() < 1e-6
    TERMS[name](given, out).sum().backward()
    assert out.value.grad.abs().sum() > 0


def test_weight_0_is_the_plain_loss(pair):
    plain, _ = compose({"mse": (1.0, TERMS["mse"])})(*pair)
    both, seen = compose({"mse": (1.0, TERMS["mse"]), "l1": (0.0, TERMS["l1"])})(*pair)
    weighted, _ = compose({"mse": (1.0, TERMS["mse"]), "l1": (2.0, TERMS["l1"])})(*pair)
    assert both == plain
    assert seen["l1"].item() == pytest.approx(0.5)
    assert weighted.item() == pytest.approx(plain.item() + 1.0)


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no term"):
        compose({})


# --- adaptive


def test_adaptive_weighs_every_sample_by_its_own_error(pair):
    given, _ = pair
    sizes = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])
    value = given.v + sizes.view(-1, 1, 1, 1)

    def pull(power):
        out = Output(value.clone().requires_grad_())
        adaptive(given, out, power=power, floor=1e-6).sum().backward()
        return out.value.grad.flatten(1).norm(dim=1)

    assert pull(0.0) == pytest.approx(2 * sizes * 48**0.5, rel=1e-4)  # 3·4·4 numbers
    assert pull(0.5) == pytest.approx(torch.full((5,), 2.0), rel=1e-3)
    assert pull(1.0) == pytest.approx(2 / (sizes * 48**0.5), rel=1e-3)
    plain = adaptive(given, Output(value), power=0.0)
    assert plain == pytest.approx(48 * mse(given, Output(value)), rel=1e-5)


# --- contrastive


def labelled(v, labels):
    return point(v)._replace(labels=labels)


def test_contrastive_is_the_distance_to_the_next_sample(pair):
    given, out = pair
    away = (out.value - given.v.roll(-1, 0)).square().flatten(1).mean(1)
    torch.testing.assert_close(contrastive(given, out), -away)
    contrastive(given, out).sum().backward()
    assert out.value.grad.abs().sum() > 0


def test_a_batch_of_one_has_nothing_to_contrast_with(pair):
    given = point(pair[0].v[:1])
    assert contrastive(given, Output(given.v + 1)).tolist() == [0]


def test_contrastive_finds_the_next_of_another_class():
    v = torch.arange(6.0).view(6, 1, 1, 1)
    still = Output(torch.zeros_like(v))
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    given = labelled(v, labels)
    seen = contrastive(given, still, apart=True)
    assert (-seen).sqrt().tolist() == [3, 3, 3, 4, 0, 0]
    alike = contrastive(labelled(v, labels * 0), still, apart=True)
    assert not alike.any()
    with pytest.raises(ValueError, match="no classes"):
        contrastive(labelled(v, None), still, apart=True)


def test_the_best_contrastive_velocity_and_its_way_back():
    """For independent negatives the optimum is (v − λ·mean) / (1 − λ), of which guidance can make v
    again: (1 − λ)·best + λ·mean."""
    weight, count = 0.2, 200_000
    rng = torch.Generator().manual_seed(0)
    mean = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1)
    v = mean + 0.8 * torch.randn(count, 2, 1, 1, generator=rng)
    seen = v + 0.5 * torch.randn(count, 2, 1, 1, generator=rng)
    plain = mean + 0.64 / (0.64 + 0.25) * (seen - mean)  # E[v | seen]
    criterion = compose({"mse": (1.0, mse), "contrastive": (weight, contrastive)})

    def slopes(velocity):
        lean = torch.zeros(2, requires_grad=True)
        value = velocity + lean[0] + lean[1] * seen
        criterion(point(v), Output(value))[0].backward()
        return lean.grad.abs().max()

    best = (plain - weight * mean) / (1 - weight)
    assert slopes(best) < 0.01
    assert slopes(plain) > 0.1
    torch.testing.assert_close((1 - weight) * best + weight * mean, plain)


@pytest.mark.parametrize(
    "weights", [{"mse": 1.0, "contrastive": 1.0}, {"l1": 5.0, "contrastive": 0.1}]
)
def test_weights_without_a_least_value_are_refused(weights):
    with pytest.raises(ValueError, match="unbounded below"):
        compose({name: (weight, TERMS[name]) for name, weight in weights.items()})


def test_the_refused_weights_have_no_least_value(pair):
    given, _ = pair
    near, far = (Output(given.v * 0 + size) for size in (0.0, 1e3))

    def total(weight, out):
        terms = {"mse": (1.0, mse), "contrastive": (weight, contrastive)}
        return compose(terms)(given, out)[0]

    assert total(0.9, far) > total(0.9, near)
    unbounded = (mse(given, far) + 1.1 * contrastive(given, far)).mean()
    assert unbounded < (mse(given, near) + 1.1 * contrastive(given, near)).mean()


# --- dispersive


def held(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_dispersive_between_alike_and_far_apart(distance, pair):
    given, out = pair
    spread = partial(dispersive, distance=distance)
    alike = spread(given, out._replace(hidden=held(1, 4, 6).expand(5, -1, -1)))
    assert alike.abs().max() < 1e-5
    apart = torch.eye(5).view(5, 1, 5) * 1e3
    cold = spread(given, out._replace(hidden=apart), temperature=0.01)
    assert cold.tolist() == pytest.approx([-math.log(5)] * 5)  # each is like itself only
    some = held(5, 4, 6)
    middle = spread(given, out._replace(hidden=some))
    assert -math.log(5) < middle[0] < 0
    shuffled = spread(given, out._replace(hidden=some[[3, 0, 4, 2, 1]]))
    torch.testing.assert_close(shuffled, middle)


def test_dispersive_is_the_formula(pair):
    given, out = pair
    z = held(5, 4, 6, seed=1)
    pairs = (z[:, None] - z[None]).square().mean((2, 3))
    wanted = torch.exp(-pairs / 0.5).mean().log().item()
    assert dispersive(given, out._replace(hidden=z)).tolist() == pytest.approx([wanted] * 5)


def test_dispersive_pushes_samples_apart(pair):
    given, out = pair
    z = held(5, 4, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(dispersive(given, out._replace(hidden=z)).mean(), z)
    before, after = (torch.cdist(y, y).mean() for y in (z.flatten(1), (z - gradient).flatten(1)))
    assert after > before


def test_dispersive_reads_the_inner_block_where_it_is_shown(pair):
    given, out = pair
    hidden, inner = held(5, 4, 6), held(5, 4, 6, seed=1)
    shown = Output(out.value, hidden, inner)
    found = dispersive(given, shown)
    torch.testing.assert_close(found, dispersive(given, out._replace(hidden=inner)))


def test_dispersive_needs_hidden_states(pair):
    with pytest.raises(ValueError, match="returns none"):
        dispersive(*pair)


def test_terms_that_read_hidden_states_alone_train_nothing():
    for names in (["dispersive"], ["alignment"], ["alignment", "dispersive"]):
        with pytest.raises(ValueError, match="no velocity is trained"):
            compose({name: (0.5, TERMS[name]) for name in names})
