"""Buckets: the published lists, the nearest shape, the cut, and the bound on enlarging."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pathline.data.buckets import cut, place, settle, sizes, too_small
from pathline.data.transforms import fit, from_image

PRX_256 = "176x352 192x320 192x336 208x304 224x288 240x272 256x256"


def test_the_lists_of_prx():
    """(256, 16), (512, 16) and (1024, 32) as prx's own function gives them."""
    found = sizes(256, multiple=16, max_ratio=2.0)
    half = {tuple(map(int, text.split("x"))) for text in PRX_256.split()}
    assert set(found) == half | {(width, height) for height, width in half}
    assert [len(sizes(n, multiple=m, max_ratio=2.0)) for n, m in ((512, 16), (1024, 32))] == [
        27
    ] * 2


def test_a_ratio_of_one_is_one_square():
    assert sizes(128, multiple=16, max_ratio=1.0) == ((128, 128),)
    assert settle(128, 8, max_ratio=1.0).sizes == ((128, 128),)


@given(st.integers(1, 40), st.integers(1, 32), st.floats(1, 6))
def test_sides_are_multiples_within_the_budget_and_mirrored(count, multiple, ratio):
    found = sizes(count * multiple, multiple=multiple, max_ratio=ratio)
    assert len(set(found)) == len(found)
    for height, width in found:
        assert (width, height) in found
        assert height % multiple == width % multiple == 0
        assert height * width <= (count * multiple) ** 2
        assert min(height, width) > count * multiple / math.sqrt(ratio) - 2 * multiple


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="no multiple of 8"):
        settle(64, 8, multiple=12)
    with pytest.raises(ValueError, match="Nearest: 96 or 112"):
        settle(100, 16)
    with pytest.raises(ValueError, match="Nearest: 16 or 32"):
        settle(8, 16)


def test_nearest_by_log_ratio_not_by_ratio():
    """1:1.5 lies between 1:1 and 1:2; |w/h − W/H| would say so of 3:2 otherwise than of 2:3."""
    three = ((128, 64), (64, 64), (64, 128))
    assert place(100, 141, three).size == (64, 64)
    assert place(141, 100, three).size == (64, 64)
    assert place(100, 142, three).size == (64, 128)
    assert place(142, 100, three).size == (128, 64)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_a_place_covers_its_bucket_and_cuts_the_middle_of_one_side(height, width):
    found = place(height, width, sizes(256, multiple=16, max_ratio=2.0))
    over = [whole - side for whole, side in zip(found.scaled, found.size, strict=True)]
    assert min(over) == 0  # one side fits exactly
    assert found.top == over[0] // 2
    assert found.left == over[1] // 2
    assert 0 <= found.cropped < 1
    share = found.size[0] * found.size[1] / (found.scaled[0] * found.scaled[1])
    assert found.cropped == pytest.approx(1 - share)


def test_enlarging_is_bounded():
    squares = ((64, 64),)
    assert too_small(52, 52, place(52, 52, squares), 1.25) is None
    told = too_small(51, 60, place(51, 60, squares), 1.25)
    assert told is not None
    assert "60x51 would be enlarged 1.25 times to cover 64x64" in told
    assert too_small(64, 64, place(64, 64, squares), 1.0) is None
    assert "64.00 times" in str(too_small(1, 1, place(1, 1, squares), 1.5))


@pytest.mark.parametrize("side", [5, 8, 12, 20])
def test_a_square_place_is_what_fit_does(noise, side):
    image = from_image(noise)
    found = place(20, 30, ((side, side),))
    assert torch.equal(cut(image, found), fit(image, side))


def test_the_cut_is_the_picture_itself_where_nothing_is_scaled(noise):
    image = from_image(noise)  # 20 high, 30 wide
    found = place(20, 30, ((20, 24),))
    assert (found.scale, found.top, found.left) == (1, 0, 3)
    assert torch.equal(cut(image, found), image[:, :, 3:27])
    assert torch.equal(cut(image, place(20, 30, ((20, 30),))), image)


@given(st.integers(1, 70), st.integers(1, 70))
def test_any_picture_comes_out_at_its_size(height, width):
    image = torch.arange(3 * height * width).remainder(256).to(torch.uint8).view(3, height, width)
    found = place(height, width, sizes(32, multiple=8, max_ratio=4.0))
    assert cut(image, found).shape[1:] == found.size
