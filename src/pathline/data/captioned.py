"""Captions that are made from file names, a trigger before every caption, repeats of a folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import lcm
from pathlib import PurePosixPath

from pathline.data.sources.source import Source
from pathline.data.tags import is_tags
from pathline.hints import listing
from pathline.types import Example

NUMBER = re.compile(r"([\s_.-]*(\(\d+\)|\d+))+$")  # at the end of a name: -03, _12, " (2)"
MOST_REPEATS = 100_000


def caption_of(key: str) -> str | None:
    """The caption that a file's name is: `red_circle-03.png` -> "red circle".

    The suffix and numbers at the end are left out; `_`, `-` and `.` are blanks. None where nothing
    is left.
    """
    name = PurePosixPath(re.sub(r"#\d+$", "", key)).name
    stem, dot, suffix = name.rpartition(".")
    plain = stem if dot and stem and suffix.isalnum() and not suffix.isdigit() else name
    words = re.sub(r"[\s_.-]+", " ", NUMBER.sub("", plain)).strip()
    return words or None


def with_trigger(caption: str | None, trigger: str) -> str:
    """A caption after the trigger: behind a comma where it is a list of tags."""
    if not caption:
        return trigger
    return f"{trigger}, {caption}" if is_tags(caption) else f"{trigger} {caption}"


def recaptioned(source: Source, *, filenames: bool, trigger: str) -> Source:
    """The source with captions of file names and the trigger before each. Raises ValueError."""
    trigger = " ".join(trigger.split())
    if filenames and not source.are_files:
        raise ValueError(
            "data.captions=filenames is wrong because these pictures have no file names. Use a "
            "folder or a tar, or data.captions=auto."
        )
    if not filenames and not trigger:
        return source

    def change(read: Callable[[int], Example], row: int) -> Example:
        example = read(row)
        captions = example.captions or ((example.caption,) if example.caption else ())
        if filenames:
            name = caption_of(example.key)
            captions = (name,) if name else ()
        if trigger:
            captions = tuple(with_trigger(text, trigger) for text in captions or (None,))
        first = captions[0] if captions else None
        return example._replace(caption=first, captions=captions)

    # A person should know what became of the captions that were there.
    notes = [*source.notes]
    if filenames:
        other = "; other captions are not used" if source.captioned else ""
        notes.append(f"captions from file names, as data.captions=filenames asks{other}")
    if trigger:
        notes.append(f"data.trigger={trigger!r} stands before every caption, or alone without one")
    about = partial(change, source.about) if source.about else None
    return source._replace(
        read=partial(change, source.read), about=about, captioned=True, notes=tuple(notes)
    )


def repeats_of(
    keys: Sequence[str], repeats: Sequence[int], chosen: Mapping[str, float | int]
) -> list[int] | None:
    """How often each picture comes in an epoch, as whole numbers; None: all of them once.

    repeats: by the source. chosen: folder -> weight; the innermost folder counts that is named, by
    its path or its own name, 5_cats also by cats. Weights such as 0.5 make the epoch longer:
    0.5 and 1 are 1 and 2. Raises ValueError for a folder that holds no picture.
    """
    weights = [Fraction(number) for number in repeats]
    if chosen:
        wanted = {
            name.strip("/"): Fraction(value).limit_denominator(100)
            for name, value in chosen.items()
        }
        folders = [_folders(key) for key in keys]
        every = {name for of_key in folders for name in of_key}
        if missing := set(wanted) - every:
            raise ValueError(
                f"data.repeats names the folder {sorted(missing)[0]!r}, which holds no picture. "
                f"Folders are: {listing(every)}."
            )
        for row, of_key in enumerate(folders):
            weights[row] = next((wanted[name] for name in of_key if name in wanted), weights[row])
    scale = lcm(*(weight.denominator for weight in weights)) if weights else 1
    counts = [int(weight * scale) for weight in weights]
    if not any(counts):
        raise ValueError("data.repeats leaves no picture. Give a folder a number above 0.")
    if max(counts) > MOST_REPEATS:
        raise ValueError(
            f"data.repeats asks for {max(counts)} repeats of a picture, more than {MOST_REPEATS}. "
            "Take smaller numbers, or rounder ones."
        )
    return None if set(counts) == {1} else counts


def _folders(key: str) -> list[str]:
    """The folders that a picture is in, by path and by name, the innermost first."""
    parents = [path for path in PurePosixPath(key).parents if path.name]
    names = ((path.as_posix(), path.name, re.sub(r"^\d+_", "", path.name)) for path in parents)
    return [name for of_path in names for name in dict.fromkeys(of_path) if name]
