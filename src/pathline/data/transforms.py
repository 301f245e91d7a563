"""From an encoded picture to uint8 pixels, and from any size to a square."""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

# What pictures come in: formats of Pillow and their suffixes. Others that it reads need programs of
# their own (EPS: Ghostscript), or any file passes for one of them (TGA, PCX).
KINDS = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "mpo"),
    "WEBP": ("webp",),
    "AVIF": ("avif", "avifs"),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "TIFF": ("tif", "tiff"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpx", "jpf"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "QOI": ("qoi",),
    "ICO": ("ico",),
    "PSD": ("psd",),
    "DDS": ("dds",),
}
Image.init()
FORMATS = tuple(kind for kind in KINDS if kind in Image.OPEN)  # older ones lack AVIF
SUFFIXES = frozenset(suffix for kind in FORMATS for suffix in KINDS[kind])
SIGNS = {  # beginnings of files that are taken for pictures -> what they are
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<svg": "SVG, which is not read: convert it to PNG",
    b"\xff\x0a": "JPEG XL, which is not read: convert it to PNG",
    b"\x00\x00\x00\x0cjxl ": "JPEG XL, which is not read: convert it to PNG",
    b"%pdf": "PDF, which is not read: convert it to PNG",
}
HEIF = (b"heic", b"heix", b"mif1", b"msf1", b"hevc")  # brands, from byte 8 on
MOST_PIXELS = 89_478_485  # where Pillow begins to suspect a decompression bomb: 256 MB of RGB
SRGB = ImageCms.createProfile("sRGB")


def decode(
    picture: bytes | Path | str | Image.Image, *, channels: int = 3, name: str | None = None
) -> UInt8[Tensor, "c h w"]:
    """Pixels as they are meant to be seen: upright, over white, in sRGB; 1 or 3 channels.

    Raises OSError for a file that can't be read and ValueError, naming the file, for one that is no
    picture, is cut short, or has so many pixels that it looks like a decompression bomb.
    """
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels cannot be decoded; choose 1 (grey) or 3 (colour)")
    name = name or (str(picture) if isinstance(picture, str | Path) else "a picture")
    if isinstance(picture, str | Path):
        picture = read_bytes(Path(picture))  # Pillow's own faults are OSErrors too
    try:
        image = upright(_open(picture))
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    except Exception as fault:  # broken files make Pillow's readers raise almost anything
        reason = why_no_picture(picture, fault)
        raise ValueError(f"{name} cannot be read as a picture: {reason}") from fault
    return from_image(image)


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises OSError, also for a pipe or device, which might never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(f"{path} is no regular file")
    return path.read_bytes()


@cache
def has_heif() -> bool:
    """Whether HEIC pictures can be read; from the first call on Pillow does so."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def open_picture(content: bytes) -> Image.Image:
    """The picture of an encoded file, not decoded yet."""
    formats = (*FORMATS, "HEIF") if content[8:12] in HEIF and has_heif() else FORMATS
    return Image.open(io.BytesIO(content), formats=formats)


def why_no_picture(content: Any, fault: Exception) -> str:
    """What is wrong with a file that can't be read as a picture, from its first bytes."""
    if not isinstance(fault, UnidentifiedImageError) or not isinstance(content, bytes):
        return str(fault) or type(fault).__name__
    if not content.strip(b"\0"):
        return "it is empty" if not content else "it holds nothing but zeros"
    if content[8:12] in HEIF and not has_heif():
        return "it is HEIC, for which pathline needs a package: pip install 'pathline[heic]'"
    head = content[:64].lstrip().lower()
    kinds = (kind for sign, kind in SIGNS.items() if head.startswith(sign))
    state = next(kinds, "its content is of no kind that is read, or damaged at the beginning")
    return f"it is {state}" if state in SIGNS.values() else state


def _open(picture: bytes | Image.Image) -> Image.Image:
    """The picture, loaded whole, so that a cut file fails here."""
    if isinstance(picture, Image.Image):
        return picture.copy()
    with open_picture(picture) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width}x{image.height} is more than {MOST_PIXELS} pixels; scale it down"
            )
        image.load()
    return image


def upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied (in place), 8 bits, sRGB, over white; mode "RGB" or "L"."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    profile = image.info.get("icc_profile")
    # Modes that neither a colour profile nor alpha composition can read are converted first.
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("RGB", "RGBA", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    image = _to_srgb(image, profile)
    # Transparent pixels have any colour underneath; white is what a page would show.
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or more bits or of floats: white is 65535, or for floats 1 or 255."""
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    white = 65535.0 if image.mode.startswith("I") else 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= white):
        raise ValueError(f"its values lie in [{low}, {high}], wanted [0, {white:g}]")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded colour profile; one that is broken or of other pixels is passed by."""
    if not profile:
        return image
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    space = profile[16:20].decode("ascii", "replace").strip()  # of the header: RGB, GRAY, CMYK …
    if space != {"RGBA": "RGB", "L": "GRAY"}.get(image.mode, image.mode):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, SRGB, outputMode=target)
    except (ImageCms.PyCMSError, OSError):
        return image  # as every viewer does
    return image if converted is None else converted


def fit(image: UInt8[Tensor, "c h w"], size: int) -> UInt8[Tensor, "c size size"]:
    """Cover a square and crop its middle, as ADM does (openai/guided-diffusion:image_datasets.py).

    Halved by box filter while the short side is at least twice `size`, then bicubic. Raises
    ValueError for one so long that it would cover too many pixels.
    """
    if image.shape[1] == image.shape[2] == size:
        return image
    picture = to_image(image)
    for half in halvings(picture.size, (size, size)):
        picture = picture.resize(half, Image.Resampling.BOX)
    scale = size / min(picture.size)
    covered = (round(picture.width * scale), round(picture.height * scale))
    picture = scaled(picture, covered)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return from_image(picture.crop((left, top, left + size, top + size)))


def halvings(size: tuple[int, int], least: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The size halved, again and again, while both sides are at least twice the least ones."""
    while size[0] >= 2 * least[0] and size[1] >= 2 * least[1]:
        size = (size[0] // 2, size[1] // 2)
        yield size


def scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bicubic, to (width, height). Raises ValueError for more pixels than a picture may have."""
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"a picture of {picture.width}x{picture.height} would have to be {size[0]}x{size[1]} "
            f"to cover its square or bucket, more than {MOST_PIXELS} pixels; cut it first"
        )
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def recolour(image: UInt8[Tensor, "c h w"], channels: int) -> UInt8[Tensor, "k h w"]:
    """The picture with 1 channel (ITU-R 601 luma) or 3 (grey repeated)."""
    if len(image) == channels:
        return image
    if len(image) == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if len(image) == 3 and channels == 1:
        return from_image(to_image(image).convert("L"))
    raise ValueError(f"a picture of {len(image)} channels cannot become one of {channels}")


def to_image(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """A PIL picture of 1 or 3 channels."""
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return Image.fromarray(array[..., 0] if len(pixels) == 1 else array)


def from_image(picture: Image.Image) -> UInt8[Tensor, "c h w"]:
    """The pixels of a PIL picture of mode "L" or "RGB"."""
    array = np.array(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
