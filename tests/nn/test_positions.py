"""Sinusoids, tables and rotations against published numbers and their defining identities."""

import pytest
import torch

from pathline.nn.positions import Table, rotary, rotate, sincos, time_sinusoid, unturned


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
    table = unturned(rotary(2, 2, 8), 3)
    turned = rotate(x, table)
    assert torch.equal(turned[:, 4:], x[:, 4:])
    assert torch.equal(turned[:, 0], x[:, 0])  # row 0, column 0
    assert not torch.allclose(turned[:, 3], x[:, 3])
