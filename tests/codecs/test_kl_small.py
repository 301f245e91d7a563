"""The small KL autoencoder: its draws, its shapes, its gradients, and what it refuses."""

import pytest
import torch

from pathline.codecs.autoencoder import Autoencoder, Critic
from pathline.codecs.kl_small import Gaussian, kl_small

TINY = {"width": 8, "depth": 1}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def test_training_draws_around_the_mean_that_coding_takes():
    gaussian = Gaussian(0.5)
    h = torch.cat([torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), -2.0)], 1)
    coded = gaussian(h, rng())
    assert coded.z.mean().item() == pytest.approx(3.0, abs=0.02)
    assert coded.z.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)
    assert torch.equal(gaussian.latents(h), h[:, :1])
    assert torch.equal(gaussian.settle(h), h)
    torch.testing.assert_close(coded.cost, 0.5 * coded.terms["kl"])
    assert torch.equal(coded.z, gaussian(h, rng()).z)
    assert not torch.equal(coded.z, gaussian(h, rng(1)).z)


@pytest.mark.parametrize(
    ("factor", "patch", "size"), [(2, 1, (8, 12)), (4, 2, (8, 16)), (4, 4, (4, 8)), (8, 2, (16, 8))]
)
def test_shapes_for_any_size_that_the_factor_divides(factor, patch, size):
    network = kl_small(3, channels=5, factor=factor, patch=patch, **TINY)
    x = some(2, 3, *size)
    z = network.latents(x)
    assert z.shape == (2, 5, size[0] // factor, size[1] // factor)
    assert network.rebuilt(z).shape == x.shape
    y, coded = network(x, rng())
    assert (y.shape, coded.z.shape) == (x.shape, z.shape)


def test_every_weight_gets_a_gradient_within_two_steps():
    """The second convolutions begin at zero and let the first learn from the second step on."""
    network = kl_small(1, **TINY)
    for _ in range(2):
        y, coded = network(some(2, 1, 8, 8), rng())
        (y.square().mean() + coded.cost).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.01 * p.grad
    assert [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_what_happens_between_reaches_the_decoder():
    network = kl_small(3, **TINY).eval()
    x = some(1, 3, 16, 16)
    y, _ = network(x, rng(), lambda z: z[:, :, :2, :2])
    assert y.shape == (1, 3, 8, 8)


def test_last_makes_the_pixels():
    network = kl_small(3, **TINY)
    y, _ = network(some(1, 3, 8, 8), rng())
    torch.autograd.grad(y.sum(), network.last)
    assert network.last.shape[0] == 3


BAD = {
    "a factor that is no power of two": ({"factor": 3}, "power of two"),
    "a patch above the factor": ({"factor": 2, "patch": 4}, "power of two"),
    "a patch of nothing": ({"patch": 0}, "power of two"),
    "no blocks": ({"depth": 0}, "at least 1"),
    "no channels": ({"channels": 0}, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_sizes_that_cannot_be_are_refused(case):
    options, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        kl_small(3, **{**TINY, **options})


def test_pictures_of_other_channels_and_sizes_are_refused():
    network: Autoencoder = kl_small(3, **TINY)
    with pytest.raises(ValueError, match=r"data.channels=3"):
        network.latents(some(1, 1, 8, 8))
    with pytest.raises(ValueError, match="Use multiples of 4"):
        network.latents(some(1, 3, 8, 10))


def test_a_critic_scores_patches():
    assert Critic(3, width=8, layers=2)(some(2, 3, 32, 32)).shape == (2, 1, 8, 8)
    assert Critic(1, width=8, layers=3)(some(2, 1, 8, 8)).shape == (2, 1, 1, 1)
