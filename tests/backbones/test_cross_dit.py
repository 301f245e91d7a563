"""cross_dit: published sizes, blocks that let nothing through, places, agreement with PixArt's."""

import pytest
import torch

from pathline.backbones.cross_dit import SHAPES, CrossShape, cross_dit
from pathline.backbones.table import BACKBONES
from pathline.types import Cond, Frame

TINY = {"depth": 2, "width": 32, "heads": 2, "patch": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def counted(shape, channels, text, outputs):
    """The formula of PixArt-α's module list, and the norm that ours has before the text."""
    d, patch = shape.width, shape.patch**2
    block = (
        16 * d**2 + 19 * d
    )  # attention and cross-attention 4d² + 4d each, MLP 8d² + 5d, table 6d
    time = 256 * d + d + d**2 + d
    shared = 6 * d**2 + 6 * d
    words = text * d + d + d**2 + d + text
    ends = patch * channels * d + d + 2 * d + d * patch * outputs + patch * outputs
    return shape.depth * block + time + shared + words + ends


def count(size, frame, **settings):
    with torch.device("meta"):
        network = cross_dit(frame, size=size, **settings)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_counts(size):
    assert count(size, Frame(4, 8, 8, text_width=512)) == counted(SHAPES[size], 4, 512, 4)


def test_published_parameter_counts():
    pixart = count("XL/2", Frame(4, 32, 32, text_width=4096), outputs=8)
    assert pixart - 4096 == 610_856_096  # PixArt-α XL/2 without its size embeddings
    small = count("B/1", Frame(4, 8, 8, text_width=512))  # T5-small, 8x8 latents
    assert small == pytest.approx(120e6, rel=0.02)


def test_blocks_are_identities_at_the_start():
    network = cross_dit(Frame(2, 4, 6, text_width=6), **TINY)
    x, text = torch.randn(3, 6, 32), torch.randn(3, 5, 32)
    signal = network.shared(torch.randn(3, 32))
    for block in network.blocks:
        assert torch.equal(block(x, signal, text), x)


def test_a_block_is_its_formula():
    """PixArt-α's order: text is asked by the stream as it is, without norm or gate."""
    network = cross_dit(Frame(2, 4, 6, text_width=6), **TINY)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    (block, *_), x, text = network.blocks, torch.randn(3, 6, 32), torch.randn(3, 5, 32)
    signal = torch.randn(3, 6 * 32)
    rows = (signal + block.modulation.table).view(3, 6, 1, 32).unbind(1)
    shift1, scale1, gate1, shift2, scale2, gate2 = rows

    def normed(x):
        return torch.nn.functional.layer_norm(x, (32,), eps=1e-6)

    y = x + gate1 * block.attention(normed(x) * (1 + scale1) + shift1)
    y = y + block.cross_attention(y, text)
    y = y + gate2 * block.mlp(normed(y) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, signal, text), y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("extrapolate", ["none", "rescale"])
def test_places_of_larger_pictures(extrapolate):
    """Rescaled, every other token of a picture twice the size stands where one stood before."""
    network = cross_dit(Frame(2, 8, 8), extrapolate=extrapolate, **TINY)
    known = network._positions(4, 4, torch.device("cpu")).view(4, 4, -1)
    larger = network._positions(8, 8, torch.device("cpu")).view(8, 8, -1)
    smaller = network._positions(2, 3, torch.device("cpu")).view(2, 3, -1)
    assert torch.equal(smaller, known[:2, :3])
    assert torch.allclose(larger[::2, ::2], known) == (extrapolate == "rescale")
    assert torch.allclose(larger[:4, :4], known) == (extrapolate == "none")


def test_without_text_nothing_is_asked():
    network = cross_dit(Frame(2, 4, 6, classes=3), **TINY)
    assert not any("cross" in name for name, _ in network.named_parameters())
    x, t = torch.randn(2, 2, 4, 6), torch.rand(2)
    assert network(x, t, Cond(labels=torch.tensor([0, 3]))).value.shape == x.shape


def test_value_is_the_first_channels_of_more_outputs():
    network = cross_dit(Frame(2, 4, 6), outputs=4, **TINY)
    torch.nn.init.normal_(network.final.linear.bias)
    value = network(torch.randn(1, 2, 4, 6), torch.rand(1), Cond()).value
    first = network.final.linear.bias.view(2, 2, 4)[:, :, :2].permute(2, 0, 1)
    torch.testing.assert_close(value[0, :, :2, :2], first)
    with pytest.raises(ValueError, match="outputs=1 is wrong because x has 2 channels"):
        cross_dit(Frame(2, 4, 6), outputs=1, **TINY)


def test_row():
    assert BACKBONES["cross_dit"] is cross_dit
    assert isinstance(SHAPES["B/1"], CrossShape)
