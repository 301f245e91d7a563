"""Statistics of a data source: sizes, shapes, colours, labels, captions, unreadable pictures."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pathline.data.sources.source import Source
from pathline.data.tags import is_tags, split
from pathline.data.transforms import fit, open_picture, read_bytes, recolour
from pathline.types import Example

Progress = Callable[[Sequence[Any]], Iterable[Any]]
RATIOS = {  # width by height, up to this
    "under 1:2": 0.495,
    "1:2 … 2:3": 0.66,
    "2:3 … 9:10": 0.9,
    "about square": 1.112,
    "10:9 … 3:2": 1.515,
    "3:2 … 2:1": 2.02,
    "over 2:1": float("inf"),
}
COUNTS = ("sizes", "modes", "labels", "lengths", "words", "captions", "tags")
ALPHA = ("RGBA", "LA", "La", "PA", "RGBa")


class Stats(NamedTuple):
    """Counts over the readable pictures of a source."""

    total: int  # pictures, readable or not
    unreadable: list[tuple[int, str]]  # (row, reason)
    sizes: Counter[tuple[int, int]]  # (width, height), upright
    modes: Counter[str]  # as stored: RGB, RGBA, L, P, CMYK, …
    alpha: int  # pictures that may have transparent parts
    labels: Counter[int | None]
    lengths: Counter[int]  # words of a caption
    missing: int  # pictures without a caption
    words: Counter[str]
    examples: list[tuple[Tensor, str]]  # (uint8 [3 side side], title), spread over the source
    captions: Counter[int]  # of a picture
    tags: Counter[str]  # of the captions that are lists of tags

    @property
    def ratios(self) -> dict[str, int]:
        """Pictures in each class of RATIOS."""
        counts = dict.fromkeys(RATIOS, 0)
        for (width, height), times in self.sizes.items():
            counts[next(name for name, most in RATIOS.items() if width / height <= most)] += times
        return counts


def measure(
    source: Source, *, examples: int = 54, side: int = 96, progress: Progress = iter
) -> Stats:
    """Read every picture once, one at a time, and count; return `examples` of them, cut square."""
    counts = {name: Counter() for name in COUNTS}
    stats = Stats(total=source.count, unreadable=[], alpha=0, missing=0, examples=[], **counts)
    # Examples spread evenly over the source.
    shown = {i * source.count // examples for i in range(examples)}
    alpha = missing = 0
    for row in progress(range(source.count)):
        try:
            example = source.read(row)
            mode, clear = stored(source, row)
        except (ValueError, OSError) as fault:
            stats.unreadable.append((row, str(fault)))
            continue
        channels, height, width = example.image.shape
        stats.sizes[width, height] += 1
        stats.modes[mode or {1: "L", 3: "RGB"}[channels]] += 1
        stats.labels[example.label] += 1
        alpha += clear
        missing += not example.caption
        _count_captions(stats, example)
        if row in shown:
            tile = fit(recolour(example.image, 3), side)
            stats.examples.append((tile, _title(source, example)))
    return stats._replace(alpha=alpha, missing=missing)


def _count_captions(stats: Stats, example: Example) -> None:
    """Count the captions of a picture, their words and tags."""
    captions = example.captions or ((example.caption,) if example.caption else ())
    stats.captions.update([len(captions)] if captions else [])
    for caption in captions:
        caption_words = words(caption)
        stats.lengths.update([len(caption_words)] if caption_words else [])
        stats.words.update(caption_words)
        stats.tags.update(split(caption) if is_tags(caption) else [])


def _title(source: Source, example: Example) -> str:
    """The title of a picture: its caption, else its class, else its key."""
    named = example.label is not None and bool(source.names)
    return example.caption or (source.names[example.label or 0] if named else example.key)


def stored(source: Source, row: int) -> tuple[str, bool]:
    """The mode a picture is stored in and whether it may be transparent, from its header."""
    if source.encoded is None:
        return "", False
    encoded = source.encoded(row)
    content = encoded if isinstance(encoded, bytes) else read_bytes(encoded)
    with open_picture(content) as image:
        return image.mode, image.mode in ALPHA or "transparency" in image.info


def words(text: str) -> list[str]:
    """Lower-case words of a caption, signs left out."""
    return re.findall(r"[\w'’-]*\w[\w'’-]*", text.lower())


def summary(counts: Counter[int]) -> tuple[int, int, int] | None:
    """Least, middle and greatest of counted numbers; None of none."""
    if not counts:
        return None
    places = list(counts.elements())
    places.sort()
    return places[0], places[len(places) // 2], places[-1]
