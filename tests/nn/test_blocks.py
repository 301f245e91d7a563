"""Patches, feed-forwards, embeddings."""

import pytest
import torch
from torch.nn import functional as F

from pathline.nn.blocks import (
    TextIn,
    TimeEmbedding,
    feed_forward,
    modulate,
    norm,
    patchify,
    unpatchify,
)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unpatchify_undoes_patchify(patch):
    x = torch.randn(2, 3, 8, 12)
    tokens = patchify(x, patch)
    assert torch.equal(unpatchify(tokens, patch, 8 // patch, 12 // patch), x)


def test_a_token_is_row_column_channel():
    x = torch.randn(1, 3, 4, 6)
    token = patchify(x, 2)[0, 4]  # second row of patches, second column
    assert torch.equal(token, x[0, :, 2:4, 2:4].permute(1, 2, 0).flatten())
    assert not torch.equal(token, x[0, :, 2:4, 2:4].flatten())  # channel-first differs


def test_patches_and_a_linear_layer_are_a_strided_convolution():
    x, weight = torch.randn(2, 3, 4, 6), torch.randn(5, 3, 2, 2)
    convolved = F.conv2d(x, weight, stride=2).flatten(2).transpose(1, 2)
    linear = patchify(x, 2) @ weight.permute(0, 2, 3, 1).flatten(1).T
    torch.testing.assert_close(linear, convolved)


def test_patches_that_do_not_fit_are_refused_with_the_nearest_sizes():
    with pytest.raises(ValueError, match=r"7x9.*height 7 and width 9.*4 or 8; 8 or 12"):
        patchify(torch.randn(1, 1, 7, 9), 4)
    with pytest.raises(ValueError, match=r"height 3 is no multiple of 4. Nearest: 4\."):
        patchify(torch.randn(1, 1, 3, 8), 4)


def test_modulate():
    x, shift, scale = torch.randn(2, 5, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


def test_norms():
    x = torch.randn(2, 5, 64) * 7 + 3
    layer, rms = norm("layer", 64)(x), norm("rms", 64)(x)
    torch.testing.assert_close(layer.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.var(-1, unbiased=False), torch.ones(2, 5))
    torch.testing.assert_close(rms.square().mean(-1), torch.ones(2, 5))


def test_gelu_is_tanh_approximated_and_four_times_as_wide():
    layer = feed_forward("gelu", 12)
    x = torch.randn(2, 3, 12)
    h = layer.up(x)
    assert h.shape[-1] == 48
    approximated = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    torch.testing.assert_close(layer(x), layer.down(approximated))


def test_swiglu_width_is_a_multiple_of_64_near_eight_thirds():
    assert feed_forward("swiglu", 384).down.in_features == 1024
    assert feed_forward("swiglu", 128).down.in_features == 384
    layer = feed_forward("swiglu", 24, bias=False)
    x = torch.randn(2, 3, 24)
    gate, value = (x @ half.T for half in layer.up.weight.chunk(2))
    torch.testing.assert_close(layer(x), F.silu(gate) * value @ layer.down.weight.T)
    assert layer.down.bias is None


def test_time_stays_exact_under_autocast():
    embed = TimeEmbedding(8)
    t = torch.tensor([0.5, 0.5001])
    plain = embed(t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embed(t), plain)
    assert not torch.equal(plain[0], plain[1])


def test_text_of_any_size_comes_in_alike():
    text = TextIn(6, 8)
    tokens = torch.randn(2, 3, 6)
    torch.testing.assert_close(text(tokens), text(1000 * tokens))
