"""Attention against its formula; masks, norms and rotations of q and k."""

import pytest
import torch

from pathline.nn.attention import Attention, CrossAttention, drop_full_mask
from pathline.nn.positions import rotary, rotate


def by_hand(layer: Attention, x, turn=None, mask=None):
    """Softmax attention in plain steps."""
    b, length, width = x.shape
    q, k, v = layer.qkv(x).view(b, length, 3, layer.heads, -1).unbind(2)
    if layer.gain is not None:
        gain_q, gain_k = layer.gain.chunk(2)
        q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain_q
        k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain_k
    if turn is not None:
        q, k = rotate(q, turn), rotate(k, turn)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
    return layer.out(y.reshape(b, length, width))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_its_formula(qk_norm, turned, masked):
    layer = Attention(16, 2, qk_norm=qk_norm)
    if layer.gain is not None:
        torch.nn.init.normal_(layer.gain)
    x = torch.randn(3, 6, 16)
    turn = rotary(2, 3, 8) if turned else None
    mask = (torch.arange(6) < torch.tensor([[2], [6], [5]]))[:, None, None] if masked else None
    torch.testing.assert_close(
        layer(x, turn, mask), by_hand(layer, x, turn, mask), rtol=1e-4, atol=1e-5
    )


def test_qk_norm_does_not_feel_the_size_of_its_input():
    plain, normed = Attention(16, 2, bias=False), Attention(16, 2, qk_norm=True, bias=False)
    normed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(normed(100 * x), 100 * normed(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(100 * x), 100 * plain(x), rtol=1e-2)


def test_qk_norm_is_float32_under_autocast():
    layer = Attention(16, 2, qk_norm=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 5, 16))
    assert y.dtype == torch.bfloat16
    assert layer.gain.dtype == torch.float32


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_is_its_formula(qk_norm, masked):
    layer = CrossAttention(16, 2, qk_norm=qk_norm)
    x, text = torch.randn(3, 6, 16), torch.randn(3, 4, 16)
    q = layer.q(x).view(3, 6, 2, 8)
    k, v = layer.kv(text).view(3, 4, 2, 2, 8).unbind(2)
    if layer.gain is not None:
        torch.nn.init.normal_(layer.gain)
        q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.gain[:8]
        k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.gain[8:]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    mask = (torch.arange(4) < torch.tensor([[2], [4], [1]]))[:, None, None] if masked else None
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    y = layer.out(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(3, 6, 16))
    torch.testing.assert_close(layer(x, text, mask), y, rtol=1e-4, atol=1e-5)


def test_a_row_without_text_hears_nothing():
    layer = CrossAttention(16, 2)
    mask = torch.tensor([[False, False], [True, True]])[:, None, None]
    y = layer(torch.randn(2, 3, 16), torch.randn(2, 2, 16), mask)
    torch.testing.assert_close(y[0], layer.out.bias.expand(3, 16))
    assert y.isfinite().all()


def test_cross_attention_does_not_feel_the_order_of_keys():
    layer = CrossAttention(16, 2, qk_norm=True)
    x, text, order = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randperm(5)
    torch.testing.assert_close(layer(x, text[:, order]), layer(x, text))


def test_a_mask_that_hides_nothing_is_not_needed():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert drop_full_mask(mask) is None
    assert drop_full_mask(None) is None
    mask[1, 2] = False
    assert drop_full_mask(mask) is mask
    away = torch.ones(2, 3, dtype=torch.bool, device="meta")
    assert drop_full_mask(away) is away  # to look would be to wait
