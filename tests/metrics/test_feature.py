"""Resizing as pytorch-fid and clean-fid do it, and batches that change nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.metrics.feature import in_batches, resized, shrinking, shrunk


def pictures(n=3, c=3, h=10, w=14):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=rng)


def test_bilinear_is_not_antialiased():
    """Halved, every pixel is the mean of the 2 × 2 that it stands between; a third is one pixel."""
    pixels = pictures(h=12, w=12)
    half = torch.nn.functional.avg_pool2d(pixels.float(), 2)
    assert torch.allclose(resized(pixels, 6, "bilinear"), half, atol=1e-4)
    assert torch.allclose(
        resized(pixels, 4, "bilinear"), pixels[:, :, 1::3, 1::3].float(), atol=1e-4
    )


def test_clean_is_pillows_bicubic_of_each_channel_unrounded():
    pixels = pictures()
    found = resized(pixels, 7, "clean")
    for n in range(3):
        for c in range(3):
            plane = Image.fromarray(pixels[n, c].numpy().astype(np.float32))
            wanted = np.asarray(plane.resize((7, 7), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.array_equal(found[n, c].numpy(), wanted)
    assert not torch.equal(found, found.round())


def test_clean_stays_in_range():
    step = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    step[..., 4:] = 255
    found = resized(step, 29, "clean")
    assert (found.min(), found.max()) == (0, 255)  # bicubic overshoots before it is clipped


def test_the_modes_differ():
    fine = pictures(1, 3, 64, 64)
    gap = (resized(fine, 16, "bilinear") - resized(fine, 16, "clean")).abs().mean()
    assert gap > 20


@pytest.mark.parametrize("mode", ["bilinear", "clean"])
def test_grey_pictures_get_three_channels(mode):
    found = resized(pictures(c=1), 9, mode)
    assert found.shape == (3, 3, 9, 9)
    assert torch.equal(found[:, 0], found[:, 2])
    with pytest.raises(ValueError, match="4 channels"):
        resized(pictures(c=4), 9, mode)


def test_shrunk():
    pixels = pictures(h=8, w=12)
    assert torch.equal(shrunk(pixels, 16), pixels.float() / 127.5 - 1)
    assert shrinking(pixels, 16) == ""
    assert shrunk(pixels, 4).shape == (3, 3, 4, 4)
    mean = (pixels.float() / 127.5 - 1).mean().item()
    assert shrunk(pixels, 4).mean().item() == pytest.approx(mean, abs=1e-5)
    assert shrinking(pixels, 8) == "-area8x8"


def test_batches_change_nothing():
    def run(part):
        assert len(part) <= 2
        return part.flatten(1).double()

    pixels = pictures(5)
    found = in_batches(pixels, 2, run)
    assert found.dtype == torch.float32
    assert torch.equal(found, pixels.flatten(1).float())
    with pytest.raises(ValueError, match="no images"):
        in_batches(pixels[:0], 2, run)
