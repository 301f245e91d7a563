"""Decoding as a viewer would show it; fitting; broken files named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pathline.data import transforms
from pathline.data.transforms import decode, fit, from_image, recolour, to_image


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colour(pixels):
    """The one colour of a plain picture."""
    flat = pixels.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def test_a_plain_picture_comes_back_exactly(noise):
    pixels = decode(saved(noise))
    assert pixels.dtype == torch.uint8
    assert (pixels.permute(1, 2, 0).numpy() == np.asarray(noise)).all()
    assert (from_image(to_image(pixels)) == pixels).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(noise, orientation):
    T = Image.Transpose
    undo = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE,
            6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip
    stored = noise.transpose(undo[orientation]) if orientation > 1 else noise
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decode(saved(stored, exif=exif)) == decode(noise)).all()


def test_transparent_parts_lie_over_white():
    assert colour(decode(saved(Image.new("RGBA", (4, 3), (255, 0, 0, 0))))) == [255, 255, 255]
    assert colour(decode(saved(Image.new("RGBA", (4, 3), (0, 0, 0, 51))))) == [204, 204, 204]
    assert colour(decode(saved(Image.new("LA", (4, 3), (0, 0))))) == [255, 255, 255]
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert colour(decode(saved(palette))) == [10, 20, 30]
    assert colour(decode(saved(palette, transparency=1))) == [255, 255, 255]
    assert (
        colour(decode(saved(Image.new("RGB", (4, 3), (1, 2, 3)), transparency=(1, 2, 3))))
        == [255] * 3
    )


def test_sixteen_bits_cmyk_bilevel_and_grey():
    deep = Image.fromarray(np.full((3, 4), 0x8080, np.uint16))
    assert colour(decode(saved(deep))) == [128] * 3
    assert colour(decode(saved(Image.new("F", (4, 3), 0.2), "TIFF"))) == [51] * 3
    assert colour(decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))) == [255, 0, 0]
    assert colour(decode(saved(Image.new("1", (4, 3), 1)))) == [255] * 3
    assert decode(saved(Image.new("L", (4, 3), 7)), channels=1).shape == (1, 3, 4)
    assert colour(decode(saved(Image.new("RGB", (4, 3), (255, 0, 0))), channels=1)) == [76]


def test_a_colour_profile_is_turned_into_srgb():
    linear = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    swapped = linear.replace(b"rXYZ", b"TMP1").replace(b"gXYZ", b"rXYZ").replace(b"TMP1", b"gXYZ")
    picture = Image.new("RGB", (4, 3), (200, 40, 40))
    assert colour(decode(saved(picture, icc_profile=bytes(linear)))) == pytest.approx(
        [200, 40, 40], abs=1
    )
    red_is_green = colour(decode(saved(picture, icc_profile=bytes(swapped))))
    assert red_is_green == pytest.approx([40, 200, 40], abs=2)
    half = Image.new("RGBA", (4, 3), (200, 40, 40, 128))
    assert colour(decode(saved(half, icc_profile=bytes(swapped))))[1] > 200  # alpha is kept
    for unfit in (b"no profile at all" * 20, bytes(linear).replace(b"RGB ", b"CMYK")):
        assert colour(decode(saved(picture, icc_profile=unfit))) == [200, 40, 40]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_file_is_named_and_never_half_read(noise, format, tmp_path):
    whole = saved(noise, format)
    file = tmp_path / f"cut.{format.lower()}"
    for share in (0.0, 0.1, 0.6):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cut\.\w+ cannot be read as a picture"):
            decode(file)


def test_other_unreadable_things(tmp_path):
    with pytest.raises(IsADirectoryError):  # the disk's fault, not the picture's
        decode(tmp_path)
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "none.png")
    with pytest.raises(ValueError, match="row-7 cannot be read"):
        decode(b"<html>", name="row-7")
    with pytest.raises(ValueError, match="choose 1"):
        decode(b"", channels=4)


def test_what_needs_a_program_of_its_own_is_not_opened(tmp_path):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(drawing)
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        decode(tmp_path / "a.png")


def test_a_picture_as_long_as_a_road_is_refused():
    with pytest.raises(ValueError, match="would have to be 256x16640000"):
        fit(torch.zeros(3, 65_000, 1, dtype=torch.uint8), 256)


def test_a_decompression_bomb_is_refused_unread():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="cannot be read"):
        decode(bomb)
    limit = transforms.MOST_PIXELS
    try:
        transforms.MOST_PIXELS = 100
        with pytest.raises(ValueError, match="30x20 is more than 100 pixels"):
            decode(saved(Image.new("RGB", (30, 20))), name="big")
    finally:
        transforms.MOST_PIXELS = limit


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 40, 100), (3, 7, 5), (3, 333, 128), (1, 1, 9)])
def test_fit_gives_the_size_and_keeps_a_plain_colour(shape):
    image = torch.full(shape, 77, dtype=torch.uint8)
    assert (fit(image, 32) == torch.full((shape[0], 32, 32), 77)).all()


def test_fit_crops_the_middle_and_leaves_a_fitting_picture_alone():
    image = torch.zeros(3, 32, 96, dtype=torch.uint8)
    image[:, :, 32:64] = 255
    assert (fit(image, 32) == 255).all()
    assert fit(image[:, :, :32], 32) is not None
    square = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    assert fit(square, 16) is square


def test_fit_averages_instead_of_sampling():
    checks = ((torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255).to(torch.uint8)[None]
    assert (fit(checks, 32).int() - 127).abs().max() <= 1


def test_recolour():
    grey = torch.randint(0, 256, (1, 4, 5), dtype=torch.uint8)
    assert (recolour(grey, 3) == grey).all()
    assert (recolour(recolour(grey, 3), 1) == grey).all()
    assert recolour(grey, 1) is grey
    with pytest.raises(ValueError, match="cannot become"):
        recolour(grey, 2)
