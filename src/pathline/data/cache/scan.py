"""What a source holds, told without decoding: a digest of every picture, its size, its captions."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pathline.data.sources.source import Source
from pathline.data.transforms import FORMATS, MOST_PIXELS
from pathline.types import Example

CHUNK, AHEAD = 64, 32  # pictures a thread looks at at a time; chunks given out before one is back
TURNED = range(5, 9)  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112
PNG_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # where one may say it
Stamp = tuple[int, int]  # size in bytes, time of the last change in ns


class Seen(NamedTuple):
    """What the last look at a file found."""

    stamp: Stamp | None
    digest: str
    height: int
    width: int


class Picture(NamedTuple):
    """One picture of a source, undecoded."""

    row: int
    key: str
    digest: str  # sha256 of the file, or of the pixels where there is no file
    stamp: Stamp | None  # None: it lies in no file of its own
    height: int  # upright
    width: int
    captions: tuple[str, ...]
    label: int | None
    of: tuple[int, ...] = ()  # the number of the caption that each arranges; (): its own


class Bad(NamedTuple):
    """A picture that can't be used, and why."""

    key: str
    reason: str
    digest: str = ""
    size: tuple[int, int] | None = None  # of the bucket it would lie in, where that is known
    passing: bool = False  # the file could not be read, whatever it holds; it is tried again


def scan(
    source: Source,
    known: Mapping[str, Seen],
    broken: Mapping[str, str],
    tick: Callable[[int], None] = lambda _: None,
) -> tuple[list[Picture], list[Bad]]:
    """Look at every picture, in the source's order.

    known: key -> what was seen of it before; a file of the same size and time is not read again.
    broken: digest -> why the picture of this digest could not be decoded before.
    """

    def some(start: int) -> list[Picture | Bad]:
        rows = range(start, min(start + CHUNK, source.count))
        return [_look(source, row, known, broken) for row in rows]

    found: list[Picture | Bad] = []
    for looked in _ahead(some, range(0, source.count, CHUNK)):
        found += looked
        tick(len(found))
    return (
        [one for one in found if isinstance(one, Picture)],
        [one for one in found if isinstance(one, Bad)],
    )


def captions_of(example: Example) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The captions that are not empty, and `Example.of` of these."""
    said = example.captions or (example.caption or "",)
    kept = [number for number, text in enumerate(said) if text.strip()]
    of = tuple(example.of[number] for number in kept) if example.of else ()
    return tuple(said[number] for number in kept), of


def unchanged(source: Source, picture: Picture) -> bool:
    """Whether the picture's file is still the one that was looked at."""
    return picture.stamp is None or _stamp(_encoded(source, picture.row)) == picture.stamp


def _look(
    source: Source, row: int, known: Mapping[str, Seen], broken: Mapping[str, str]
) -> Picture | Bad:
    key = f"row {row}"
    try:
        about = source.about or source.read
        example: Example = about(row)
        key, encoded = example.key, _encoded(source, row)
        stamp, seen = _stamp(encoded), known.get(key)
        if seen is None or stamp is None or seen.stamp != stamp:
            seen = _seen(source, row, encoded)
    except Exception as fault:  # broken files make Pillow's readers raise almost anything
        return Bad(key, str(fault))
    if seen.digest in broken:
        return Bad(key, broken[seen.digest], seen.digest)
    said, of = captions_of(example)
    return Picture(row, key, seen.digest, stamp, seen.height, seen.width, said, example.label, of)


def _seen(source: Source, row: int, encoded: bytes | Path | None) -> Seen:
    """Digest and size; of the pixels where nothing is encoded."""
    if encoded is None:
        image = source.read(row).image
        shape = tuple(image.shape)
        content = repr(shape).encode() + image.numpy().tobytes()
        return Seen(None, hashlib.sha256(content).hexdigest(), shape[1], shape[2])
    content = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    height, width = _size(content, encoded)
    return Seen(None, hashlib.sha256(content).hexdigest(), height, width)


def _size(content: bytes, name: bytes | Path) -> tuple[int, int]:
    """Height and width of an encoded picture as it is meant to be seen, from its header."""
    named = f"{name} " if isinstance(name, Path) else ""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            few = width * height <= MOST_PIXELS
            turned = few and _turned(image)
    except Exception as fault:
        raise ValueError(f"{named}cannot be read as a picture: {fault}") from fault
    if not few:
        raise ValueError(f"{named}has {width}x{height} pixels, more than {MOST_PIXELS}; scale it")
    return (width, height) if turned else (height, width)


def _turned(image: Image.Image) -> bool:
    """Whether width and height are to be exchanged. A TIFF's size is so already, and a PNG that
    says nothing of it would be decoded whole to ask."""
    silent = image.format == "PNG" and not PNG_EXIF & image.info.keys()
    return image.format != "TIFF" and not silent and image.getexif().get(ORIENTATION) in TURNED


def _encoded(source: Source, row: int) -> bytes | Path | None:
    return source.encoded(row) if source.encoded is not None else None


def _stamp(encoded: bytes | Path | None) -> Stamp | None:
    if not isinstance(encoded, Path):
        return None
    state = encoded.stat()
    return state.st_size, state.st_mtime_ns


def _ahead(work: Callable[[int], list], starts: range) -> Iterator[list]:
    """work of each start, in order, by threads."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for first in range(0, len(starts), AHEAD):
            yield from pool.map(work, starts[first : first + AHEAD])
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for them
