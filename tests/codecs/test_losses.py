"""What codecs learn by: closed forms, identities, and where gradients go."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pathline.codecs import losses as learning
from pathline.codecs import perceptual
from pathline.codecs.losses import Turn


def some(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_kl_is_the_divergence_of_two_gaussians():
    mean, logvar = some(3, 2, 4, 4), some(3, 2, 4, 4, seed=1)
    normal = torch.distributions.Normal
    one, two = normal(mean, (logvar / 2).exp()), normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(one, two).flatten(1).sum(1).mean()
    torch.testing.assert_close(learning.kl(mean, logvar), expected)
    assert learning.kl(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)) == 0


def test_edges_are_deaf_to_brightness_and_hear_a_blur():
    x = some(2, 3, 8, 8)
    assert learning.edges(x, x + 0.5) < 1e-6
    assert learning.edges(x, F.avg_pool2d(x, 3, 1, 1)) > 0.5


def test_commitment_pulls_latents_and_leaves_codes():
    z, q = (some(2, 3, 4, 4, seed=s).requires_grad_() for s in (0, 1))
    learning.commitment(z, q).backward()
    torch.testing.assert_close(z.grad, 2 * (z - q).detach() / z.numel())
    assert q.grad is None


def test_straight_has_the_value_of_one_and_the_gradient_of_the_other():
    z, q = (some(2, 3, 4, 4, seed=s).requires_grad_() for s in (0, 1))
    out, along = learning.straight(z, q), some(2, 3, 4, 4, seed=2)
    torch.testing.assert_close(out, q)
    (out * along).sum().backward()
    assert torch.equal(z.grad, along)
    assert q.grad is None


def test_noising_has_the_moments_of_its_formula():
    """E z' = z/2 and Var z' = Var(1−τ)·z² + 9·E τ² = z²/12 + 3."""
    z = torch.full((40_000, 1, 1, 1), 2.0)
    noisy = learning.noised(z, rng(), 3.0)
    assert noisy.mean().item() == pytest.approx(1.0, abs=0.05)
    assert noisy.var().item() == pytest.approx(4 / 12 + 3, rel=0.05)
    alike = learning.noised(torch.zeros(1, 1, 64, 64), rng(), 3.0)  # one τ a picture
    apart = learning.noised(torch.zeros(64, 1, 64, 1), rng(), 3.0).flatten(1).std(1)
    assert alike.flatten(1).std(1).shape == (1,)
    assert apart.max() > 5 * apart.min()


def test_turns_come_as_often_as_asked_and_cover_all():
    chance = rng()
    turns = [learning.draw_turn(chance, 0.5) for _ in range(1000)]
    plain = sum(turn == Turn() for turn in turns) / 1000
    assert plain == pytest.approx(0.5, abs=0.06)
    assert {turn.quarters for turn in turns} == {0, 1, 2, 3}
    assert {round(turn.scale * 32) for turn in turns} == set(range(8, 33))
    assert all(learning.draw_turn(chance, 0.0) == Turn() for _ in range(20))
    assert learning.scaled(8, 3, Turn(0.25)) == (2, 1)


def test_turning_commutes_with_a_decoder_that_treats_all_places_alike():
    """The identity an equivariant codec has; a decoder that knows places breaks it."""
    z, turn = some(2, 3, 4, 4), Turn(1.0, 1)

    def decoder(z):
        return F.interpolate(z, scale_factor=2.0, mode="nearest")

    x = learning.turned(decoder(z), turn, (8, 8))
    assert torch.equal(decoder(learning.turned(z, turn, (4, 4))), x)
    ramp = torch.linspace(0, 1, 8)
    y = learning.turned(decoder(z) + ramp, turn, (8, 8))
    assert not torch.allclose(decoder(learning.turned(z, turn, (4, 4))) + ramp, y)
    assert learning.turned(z, Turn(0.5), (2, 2)).shape == (2, 3, 2, 2)


def test_hinge_is_zero_where_the_critic_is_sure_and_one_where_it_is_not():
    high, low, none = (torch.full((2, 1, 3, 3), v) for v in (2.0, -2.0, 0.0))
    assert learning.hinge(high, low) == 0
    assert learning.hinge(none, none) == 1
    assert learning.hinge(low, high) == 3


def test_balance_makes_both_gradients_equally_long():
    last = some(4, 4).requires_grad_()
    x = some(4)
    one, two = (last @ x).square().sum(), 1e-3 * (last @ x).abs().sum()
    share = learning.balance(one, two, last)
    norms = [torch.autograd.grad(v, last)[0].norm() for v in (one, share * two)]
    torch.testing.assert_close(norms[0], norms[1], rtol=0.1, atol=0)
    assert not share.requires_grad


def test_perplexity_counts_codes_that_are_used_alike():
    assert learning.perplexity(torch.arange(8).repeat(3), 8).item() == pytest.approx(8)
    assert learning.perplexity(torch.zeros(5, dtype=torch.long), 8).item() == pytest.approx(1)
    assert learning.perplexity(torch.tensor([1, 2]), 8).item() == pytest.approx(2)


def test_psnr_of_an_error_of_one_level():
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    grey = black + 1
    assert learning.psnr(black, grey)[0].item() == pytest.approx(20 * math.log10(255))
    assert learning.psnr(black, black).tolist() == [99, 99]


def test_comparisons_are_weighted_and_told_one_by_one():
    x, y = some(2, 3, 4, 4), some(2, 3, 4, 4, seed=1)
    weighted = {"l1": (2.0, F.l1_loss), "mse": (0.5, F.mse_loss)}
    total, terms = learning.compared(x, y, weighted)
    torch.testing.assert_close(total, 2 * (x - y).abs().mean() + 0.5 * (x - y).square().mean())
    assert terms.keys() == {"l1", "mse"}


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Random weights under the names that torchvision gives them."""
    torch.manual_seed(0)
    network = nn.Sequential(*perceptual._layers())
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, file)
    return file


def test_perceptual_distance_is_nought_of_the_same_and_grows_with_noise(vgg_file):
    features = perceptual.vgg(str(vgg_file))
    assert len(features) == 30  # torchvision's vgg16.features without its last halving
    x, noise = some(1, 3, 16, 16), some(1, 3, 16, 16, seed=1)
    near, far = (perceptual.perceptual(features, x, x + s * noise) for s in (0.1, 1.0))
    assert perceptual.perceptual(features, x, x) == 0
    assert 0 < near < far
    y = (x + noise).requires_grad_()
    perceptual.perceptual(features, x, y).backward()
    assert y.grad.abs().sum() > 0


def test_other_weights_are_no_vgg(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"weights of VGG-16 in .*don't fit"):
        perceptual.vgg(str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="vgg16-397923af"):
        perceptual.vgg(str(tmp_path / "none.pth"))
