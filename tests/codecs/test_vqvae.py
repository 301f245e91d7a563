"""Codes: the codebook follows its latents and revives the dead; levels are what the paper says."""

import math

import pytest
import torch

from pathline.codecs.vqvae import Codebook, Levels, fsq, vqvae

TINY = {"width": 8, "depth": 1}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def book(size=8, channels=3, *, decay=0.9, dead=0.0, commitment=0.25):
    torch.manual_seed(0)
    return Codebook(channels, size, decay=decay, dead=dead, commitment=commitment)


def test_the_nearest_code_is_the_nearest():
    codebook, z = book(), some(2, 3, 4, 5)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    expected = torch.cdist(rows, codebook.codes).argmin(1).view(2, 4, 5)
    assert torch.equal(codebook.indices(z), expected)
    settled = codebook.settle(z)
    assert torch.equal(settled[1, :, 2, 3], codebook.codes[expected[1, 2, 3]])
    assert torch.equal(codebook.settle(settled), settled)  # a code is nearest to itself


def test_gradients_pass_through_the_codes_unchanged():
    codebook, z = book(commitment=0.0), some(2, 3, 4, 4).requires_grad_()
    along = some(2, 3, 4, 4, seed=1)
    coded = codebook(z, rng())
    (coded.z * along).sum().backward()
    assert torch.equal(z.grad, along)
    torch.testing.assert_close(coded.z, codebook.settle(z))
    assert [name for name, _ in codebook.named_parameters()] == []  # codes move by averages alone


def test_codes_are_the_moving_averages_of_their_latents():
    """Against the formula written out; with one code and much data it is the mean itself."""
    codebook, batches = book(size=4), [some(6, 3, 4, 4, seed=s) for s in range(3)]
    counts, sums = torch.zeros(4), torch.zeros(4, 3)
    for z in batches:
        hit = codebook.indices(z).flatten()
        rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
        codebook(z, rng())
        codebook.learn(rng())
        for code in range(4):
            counts[code] = 0.9 * counts[code] + 0.1 * (hit == code).sum()
            sums[code] = 0.9 * sums[code] + 0.1 * rows[hit == code].sum(0)
    total = counts.sum()
    smooth = (counts + 1e-5) / (total + 4e-5) * total
    torch.testing.assert_close(codebook.codes, sums / smooth[:, None])
    single = book(size=2, decay=0.0)
    single.codes[:] = torch.tensor([[0.0, 0, 0], [99, 99, 99]])
    single(batches[0], rng())
    single.learn(rng())
    torch.testing.assert_close(single.codes[0], batches[0].mean((0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_dead_codes_are_put_onto_latents_and_live_ones_stay():
    codebook = book(size=8, dead=0.5)
    z = some(4, 3, 4, 4) + 50  # all of them hit one code
    hit = codebook.indices(z).unique()
    assert len(hit) == 1
    codebook(z, rng())
    codebook.learn(rng())
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    revived = [code for code in range(8) if code != hit.item()]
    assert all((rows == codebook.codes[code]).all(1).any() for code in revived)
    assert torch.equal(codebook.counts[revived], torch.ones(7))
    assert len(codebook.indices(z).unique()) >= 6


def test_without_revival_the_codebook_stays_collapsed():
    """The control of the test above: it can fail."""
    codebook = book(size=8, dead=0.0)
    z = some(4, 3, 4, 4) + 50
    codebook(z, rng())
    codebook.learn(rng())
    assert len(codebook.indices(z).unique()) == 1


def test_revival_is_a_function_of_its_generator():
    z, found = some(4, 3, 4, 4), []
    for seed in (0, 0, 1):
        codebook = book(size=64, dead=0.5)
        codebook(z, rng())
        codebook.learn(rng(seed))
        found.append(codebook.codes)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_only_training_passes_move_codes():
    codebook, z = book(), some(2, 3, 4, 4)
    with torch.no_grad():
        codebook(z, rng())
    assert codebook.last_pass is None
    codebook.eval()(z, rng())
    assert codebook.last_pass is None
    codebook.train()(z, rng())
    assert codebook.last_pass is not None


def test_a_codebook_that_cannot_be_is_refused():
    for options in ({"size": 1}, {"decay": 1.0}):
        with pytest.raises(ValueError, match="codebook"):
            book(**options)


LEVELS = [(8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 6, 5), (3, 4)]


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_has_a_latent_and_every_latent_its_code(levels):
    quantiser = Levels(levels)
    every = torch.arange(math.prod(levels)).view(-1, 1, 1)
    values = quantiser.values(every)
    assert torch.equal(quantiser.indices(values), every)
    assert torch.equal(quantiser.settle(values), values)
    assert len(values.flatten(1).unique(dim=0)) == quantiser.size == math.prod(levels)
    assert values.abs().max() <= 1


def test_levels_are_those_of_the_paper():
    """The reference bounds and rounds so (google-research/fsq, written out for one channel)."""
    x = torch.linspace(-6, 6, 401)
    for levels in (5, 8):
        half, offset = (levels - 1) * 1.001 / 2, 0.0 if levels % 2 else 0.5
        bound = (x + math.atanh(offset / half)).tanh() * half - offset
        quantiser, h = Levels((levels,)), x.view(1, 1, 1, -1)
        raw = quantiser.latents(h)
        torch.testing.assert_close(raw.flatten() * (levels // 2), bound)
        settled = quantiser.settle(raw).flatten() * (levels // 2)
        assert torch.equal(settled, bound.round())
        assert len(settled.unique()) == levels
    assert Levels((8,)).latents(torch.zeros(1, 1, 1, 1)).abs() < 1e-6  # zero stays zero


def test_the_gradient_of_rounding_is_that_of_the_bound():
    quantiser = Levels((8, 5))
    h = some(2, 2, 3, 3).requires_grad_()
    quantiser(h, rng()).z.sum().backward()
    bound = some(2, 2, 3, 3).requires_grad_()
    quantiser.latents(bound).sum().backward()
    torch.testing.assert_close(h.grad, bound.grad)


def test_latents_from_afar_settle_on_the_outermost_levels():
    """A flow may draw what no encoder gives."""
    quantiser = Levels((8, 5))
    far = torch.tensor([[9.0, 9.0], [-9.0, -9.0]]).view(2, 2, 1, 1)
    assert quantiser.settle(far).flatten().tolist() == [0.75, 1.0, -1.0, -1.0]
    assert quantiser.indices(far).flatten().tolist() == [39, 0]


def test_two_levels_are_refused():
    for levels in ((2, 5), ()):
        with pytest.raises(ValueError, match="at least 3"):
            Levels(levels)


@pytest.mark.parametrize(("row", "options"), [(vqvae, {"size": 16}), (fsq, {"levels": (5, 5)})])
def test_the_flow_gets_continuous_latents_and_decoding_takes_their_codes(row, options):
    torch.manual_seed(0)
    network, x = row(3, **options, **TINY), some(2, 3, 8, 8)
    raw = network.latents(x)
    codes = network.bottleneck.settle(raw)
    assert raw.shape == codes.shape == (2, network.channels, 2, 2)
    assert not torch.allclose(raw, codes)
    assert torch.equal(network.rebuilt(raw), network.rebuilt(codes))
    y, coded = network(x, rng())
    torch.testing.assert_close(y, network.rebuilt(raw), atol=1e-3, rtol=1e-3)
    assert 1 <= coded.terms["perplexity"] <= network.bottleneck.size
