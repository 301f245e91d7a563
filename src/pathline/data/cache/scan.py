"""Look at every picture of a source without decoding it: its digest, size and captions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pathline.data.ahead import map_ahead
from pathline.data.faults import Fault
from pathline.data.sources.source import Source
from pathline.data.transforms import MOST_PIXELS, open_picture, read_bytes, why_no_picture
from pathline.files import digest
from pathline.types import Example

CHUNK, AHEAD = 64, 2048  # pictures a thread looks at at a time, and that wait to be used
TURNED = range(5, 9)  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112
PNG_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # where one may be given
FileVersion = tuple[int, int]  # size in bytes, time of the last change in ns


class FileInfo(NamedTuple):
    """What an earlier scan noted of a file."""

    version: FileVersion | None
    digest: str
    height: int
    width: int


class Picture(NamedTuple):
    """One picture of a source, undecoded."""

    row: int
    key: str
    digest: str  # of the file, or of the pixels where there is no file
    version: FileVersion | None  # None: it has no file of its own
    height: int  # upright
    width: int
    captions: tuple[str, ...]
    label: int | None
    of: tuple[int, ...] = ()  # the number of the caption that each arranges; (): its own
    repeats: int = 1  # times it comes in an epoch


def scan(
    source: Source,
    earlier: Mapping[str, FileInfo],
    undecodable: Mapping[str, str],
    tick: Callable[[int], None] = lambda _: None,
) -> tuple[list[Picture], list[Fault]]:
    """The readable pictures and the faults of the others, in the source's order.

    earlier: key -> what the last scan noted; a file of the same size and time is not read again.
    undecodable: digest -> why the picture of this digest could not be decoded before.
    """
    pictures: list[Picture] = []
    faults: list[Fault] = []

    def look_at(row: int) -> Picture | Fault:
        return _look_at(source, row, earlier, undecodable)

    # In the source's order, whichever thread is first: equal folders give equal caches.
    looks = map_ahead(look_at, range(source.count), ahead=AHEAD, chunk=CHUNK)
    for count, look in enumerate(looks, start=1):
        if isinstance(look, Picture):
            pictures.append(look)
        else:
            faults.append(look)
        if count % CHUNK == 0 or count == source.count:
            tick(count)
    return pictures, faults


def captions_of(example: Example) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The captions that are not empty, and `Example.of` of these."""
    texts = example.captions or (example.caption or "",)
    numbers = [number for number, text in enumerate(texts) if text.strip()]
    of = tuple(example.of[number] for number in numbers) if example.of else ()
    return tuple(texts[number] for number in numbers), of


def unchanged(source: Source, picture: Picture) -> bool:
    """Whether the picture's file is still the one that was scanned."""
    return picture.version is None or _version(_encoded(source, picture.row)) == picture.version


def _look_at(
    source: Source, row: int, earlier: Mapping[str, FileInfo], undecodable: Mapping[str, str]
) -> Picture | Fault:
    key = f"row {row}"
    try:
        describe = source.about or source.read
        example: Example = describe(row)
        key, encoded = example.key, _encoded(source, row)
        version, info = _version(encoded), earlier.get(key)
        # Reading and hashing is what takes time: a file of the same version keeps its entry.
        if info is None or version is None or info.version != version:
            info = _read_info(source, row, encoded)
    except Exception as error:  # broken files make Pillow's readers raise almost anything
        return Fault(key, str(error))
    # Known to be broken: decoding these bytes is not tried again.
    if info.digest in undecodable:
        return Fault(key, undecodable[info.digest], info.digest)
    captions, of = captions_of(example)
    size = info.height, info.width
    return Picture(
        row, key, info.digest, version, *size, captions, example.label, of, example.repeats
    )


def _read_info(source: Source, row: int, encoded: bytes | Path | None) -> FileInfo:
    """Digest and size; of the pixels where nothing is encoded."""
    if encoded is None:
        image = source.read(row).image
        shape = tuple(image.shape)
        content = repr(shape).encode() + image.numpy().tobytes()
        return FileInfo(None, digest(content), shape[1], shape[2])
    content = read_bytes(encoded) if isinstance(encoded, Path) else encoded
    return FileInfo(None, digest(content), *size_from_header(content, encoded))


def size_from_header(content: bytes, name: bytes | Path) -> tuple[int, int]:
    """Height and width of an encoded picture as it is meant to be shown, undecoded."""
    named = f"{name} " if isinstance(name, Path) else ""
    try:
        with open_picture(content) as image:
            width, height = image.size
            fits = width * height <= MOST_PIXELS
            is_turned = fits and _is_turned(image)
    except Exception as error:
        raise ValueError(
            f"{named}cannot be read as a picture: {why_no_picture(content, error)}"
        ) from error
    if not fits:
        raise ValueError(
            f"{named}has {width}x{height} pixels, more than {MOST_PIXELS}. Scale it down."
        )
    return (width, height) if is_turned else (height, width)


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF exchanges width and height. A TIFF's size already takes it into account, and a
    PNG without the entry would be decoded whole to find out."""
    has_none = image.format == "PNG" and not PNG_EXIF & image.info.keys()
    return image.format != "TIFF" and not has_none and image.getexif().get(ORIENTATION) in TURNED


def _encoded(source: Source, row: int) -> bytes | Path | None:
    return source.encoded(row) if source.encoded is not None else None


def _version(encoded: bytes | Path | None) -> FileVersion | None:
    if not isinstance(encoded, Path):
        return None
    state = encoded.stat()
    return state.st_size, state.st_mtime_ns
