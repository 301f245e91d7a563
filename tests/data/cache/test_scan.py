"""Sizes told from headers are those of the pictures as they are seen, and nothing is decoded."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pathline.data.cache.scan import size_from_header
from pathline.data.transforms import decode


def saved(format, orientation):
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (64, 40), "red").save(file, format, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 8])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_picture(format, orientation):
    content = saved(format, orientation)
    assert size_from_header(content, b"") == tuple(decode(content).shape[1:])


def test_a_png_is_not_decoded_for_it(monkeypatch):
    monkeypatch.setattr(PngImageFile, "load", None)
    assert size_from_header(saved("PNG", None), b"") == (40, 64)
