"""Sinusoids, tables and rotations against published numbers and their defining identities."""

from itertools import pairwise

import pytest
import torch

from pathline.nn import positions
from pathline.nn.positions import (
    Table,
    axes,
    cached_table,
    extend_rope,
    rotary,
    rotary_picture,
    rotary_text,
    rotate,
    sincos,
    size_ratio,
    time_sinusoid,
)


def test_time_sinusoid_has_the_published_values():
    e = time_sinusoid(torch.tensor([500.0, 0.5]))
    places = [0, 1, 127, 128, 129, 255]
    late = torch.tensor([-0.883849, 0.945943, 0.998557, -0.467772, 0.324334, 0.053705])
    early = torch.tensor([0.877583, 0.893694, 1.0, 0.479426, 0.448678, 5.373e-5])
    torch.testing.assert_close(e[0, places], late, atol=2e-5, rtol=0)
    torch.testing.assert_close(e[1, places], early, atol=1e-6, rtol=0)


def test_sincos_tells_the_column_first():
    a, b = 0.841471, 0.0099998
    c, d = 0.540302, 0.99995
    still, moved = [0.0, 0.0, 1.0, 1.0], [a, b, c, d]
    wanted = torch.tensor([still + still, moved + still, still + moved, moved + moved])
    torch.testing.assert_close(sincos(2, 2, 8), wanted, atol=1e-6, rtol=0)


def test_tables_keep_their_precision_when_the_network_is_cast():
    table = Table(rotary(3, 70, 8))
    before = table().clone()
    assert torch.equal(table.to(torch.bfloat16)(), before)
    assert not torch.equal(before, before.bfloat16().float())  # the cast would have shown
    assert not table.state_dict()


def test_tables_do_not_feel_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        inside = rotary(2, 300, 8), sincos(2, 300, 8), time_sinusoid(torch.tensor([257.0]))
    outside = rotary(2, 300, 8), sincos(2, 300, 8), time_sinusoid(torch.tensor([257.0]))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("f", [sincos, rotary])
def test_a_width_that_four_does_not_divide_is_refused(f):
    with pytest.raises(ValueError, match="6"):
        f(2, 2, 6)


def test_lowest_frequency_of_rotary():
    for theta, lowest in ((256.0, 5.52e-3), (1e4, 1.78e-4)):
        # on a strip, rows say nothing; the last column pair turns slowest
        angle = torch.asin(rotary(1, 2, 64, theta=theta)[1, 1, 63])
        assert angle.item() == pytest.approx(lowest, rel=2e-3)


def test_rotation_keeps_norms():
    x = torch.randn(2, 12, 3, 8, dtype=torch.float64)
    turned = rotate(x, rotary(3, 4, 8).double())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert not torch.allclose(turned, x)


def test_rotated_products_depend_on_the_offset_only():
    rows, columns = 4, 5
    table = rotary(rows, columns, 8).double()
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    spread = rotate(torch.stack([q, k]).expand(1, rows * columns, 2, 8), table)[0]
    products = (spread[:, 0] @ spread[:, 1].T).view(rows, columns, rows, columns)
    torch.testing.assert_close(
        products[:-1, :-1, :-1, :-1], products[1:, 1:, 1:, 1:], rtol=0, atol=1e-6
    )
    assert not torch.allclose(products[0, 0, 1, 0], products[0, 0, 0, 1])  # axes differ


def test_text_is_not_turned():
    x = torch.randn(2, 7, 2, 8)
    table = extend_rope(rotary(2, 2, 8), 3)
    turned = rotate(x, table)
    assert torch.equal(turned[:, 4:], x[:, 4:])
    assert torch.equal(turned[:, 0], x[:, 0])  # row 0, column 0
    assert not torch.allclose(turned[:, 3], x[:, 3])


def test_a_head_is_shared_by_three_axes():
    assert axes(128) == (32, 48, 48)  # Z-Image
    assert axes(64) == (16, 24, 24)
    for width in range(6, 130, 2):
        parts = axes(width)
        assert sum(parts) == width
        assert all(part >= 2 and part % 2 == 0 for part in parts)
    for width in (4, 7):
        with pytest.raises(ValueError, match=f"at least 6, got {width}"):
            axes(width)


def turned(q, k, table):
    """Products of q turned to one place and k turned to another [l l]."""
    spread = rotate(torch.stack([q, k]).expand(1, table.shape[1], 2, len(q)), table.double())[0]
    return spread[:, 0] @ spread[:, 1].T


def test_products_depend_on_the_offset_only_on_each_of_three_axes():
    q, k = torch.randn(2, 16, dtype=torch.float64)
    rows, columns, length = 4, 5, 6
    picture = turned(q, k, rotary_picture(rows, columns, 16)).view(rows, columns, rows, columns)
    text = turned(q, k, rotary_text(length, 16))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(picture[:-1, :, :-1], picture[1:, :, 1:], **close)  # row
    torch.testing.assert_close(picture[:, :-1, :, :-1], picture[:, 1:, :, 1:], **close)  # column
    torch.testing.assert_close(text[:-1, :-1], text[1:, 1:], **close)
    offsets = picture[0, 0, 1, 0], picture[0, 0, 0, 1], text[0, 1]
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(offsets))


def test_a_word_is_as_far_from_the_picture_as_its_number_says():
    """The first patch stands where a word number 0 would; no patch differs on the text axis."""
    q, k = torch.randn(2, 16, dtype=torch.float64)
    both = turned(q, k, torch.cat([rotary_picture(2, 2, 16), rotary_text(4, 16)], dim=1))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(both[0, 4:7], both[4, 5:8], **close)
    text = axes(16)[0] // 2
    assert torch.equal(rotary_picture(3, 4, 16)[0, :, :text], torch.ones(12, text))


def test_more_words_do_not_move_the_first():
    assert torch.equal(rotary_text(64, 16)[:, :9], rotary_text(9, 16))


def test_three_axes_have_the_published_frequencies():
    """Z-Image: theta 256 over the 48 entries of the column: 256^(-46/48) is the slowest."""
    angle = torch.asin(rotary_picture(1, 2, 128)[1, 1, -1])
    assert angle.item() == pytest.approx(256 ** (-46 / 48), rel=1e-4)


def test_larger_pictures_are_squeezed_or_spread():
    known, head = rotary_picture(4, 4, 64), 64
    squeezed = rotary_picture(8, 8, head, shrink=2.0).view(2, 8, 8, head)
    torch.testing.assert_close(squeezed[:, ::2, ::2].reshape(2, 16, head), known)
    spread = rotary_picture(1, 2, head, ntk=2.0)[1, 1, -12:].asin()
    plain = rotary_picture(1, 2, head)[1, 1, -12:].asin()
    assert spread[-1].item() == pytest.approx(plain[-1].item() / 2, rel=1e-4)
    assert spread[0].item() == pytest.approx(plain[0].item(), rel=1e-6)


def test_growth():
    assert size_ratio(8, 8, (4, 4)) == 2
    assert size_ratio(2, 8, (4, 4)) == size_ratio(2, 2, (4, 4)) == 1
    torch.testing.assert_close(
        sincos(8, 8, 8, shrink=2.0).view(8, 8, 8)[::2, ::2].flatten(0, 1), sincos(4, 4, 8)
    )


def test_a_table_is_made_once():
    made, device = [], torch.device("cpu")

    def make(rows, *, device, shrink):
        made.append((rows, shrink))
        return torch.ones(rows, device=device)

    first = cached_table(make, 3, shrink=1.0, device=device)
    assert cached_table(make, 3, shrink=1.0, device=device) is first
    cached_table(make, 4, shrink=1.0, device=device)
    cached_table(make, 3, shrink=2.0, device=device)
    assert made == [(3, 1.0), (4, 1.0), (3, 2.0)]


def test_a_cached_table_serves_training_wherever_it_was_made(monkeypatch):
    """In inference mode and in a transformation things are made that training can't use."""
    monkeypatch.setattr(positions, "_cached", positions.lru_cache(positions._cached.__wrapped__))
    device = torch.device("cpu")
    with torch.inference_mode():
        cached_table(rotary_text, 7, 16, device=device)
        bare = rotary_text(7, 16)
    assert bare.is_inference()
    table = cached_table(rotary_text, 7, 16, device=device)
    assert not table.is_inference()

    def scaled(x):
        return (x * cached_table(rotary_text, 8, 16, device=device)[0]).sum()

    slope = torch.func.grad(scaled)(torch.ones(8, 16))
    kept = cached_table(rotary_text, 8, 16, device=device)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(kept)
    assert torch.equal(slope, kept[0])
