"""What a person asks to be drawn, from words on a line to items and an `Ask`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pathline.assemble import Parts, labelled
from pathline.data.buckets import cut, place
from pathline.data.cache.reader import read as read_cache
from pathline.data.cache.reader import refuse_other
from pathline.data.transforms import decode
from pathline.generate import Ask, Item, encode
from pathline.runs.folder import Opened

SHOWN = 5  # sizes that a warning names


class Asked(NamedTuple):
    """As it was given on the line."""

    prompts: Sequence[str]
    file: Path | None
    cached: Sequence[str]  # names of pictures in the run's cache
    label: int | None
    class_grid: bool
    n: int | None


def items_of(opened: Opened, parts: Parts, asked: Asked) -> tuple[list[Item], Ask]:
    """What to draw, picture by picture, and its conditions where they come from a cache."""
    ways = [asked.prompts, asked.file, asked.cached, asked.label is not None, asked.class_grid]
    if sum(map(bool, ways)) > 1:
        raise ValueError(
            "Give prompts, or --prompt-file, --from-cache, --label or --class-grid: one of them."
        )
    n = asked.n
    if n is not None and n < 1:
        raise ValueError(f"--n {n} asks for no picture; give 1 or more.")
    if asked.cached:
        return _from_cache(opened, parts, asked.cached, n or 1)
    if (asked.class_grid or asked.label is not None) and not labelled(parts.text):
        raise ValueError("This run knows no classes; give it prompts, or nothing for anything.")
    if asked.class_grid:
        return [index for index in range(len(parts.facts.names)) for _ in range(n or 8)], Ask()
    prompts: list[Item] = [asked.label] if asked.label is not None else list(asked.prompts)
    prompts += _lines(asked.file) if asked.file else []
    if not prompts:
        return [None] * (n or 16), Ask()
    return [item for item in prompts for _ in range(n or 1)], Ask()


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; wanted a text file of prompts, one a line."
        )
    found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if not any(found):
        raise ValueError(f"{file} holds no prompt; wanted one a line.")
    return [line for line in found if line]


def _from_cache(
    opened: Opened, parts: Parts, names: Sequence[str], n: int
) -> tuple[list[Item], Ask]:
    if not opened.run.data.cache:
        raise ValueError("--from-cache is for runs on a cache (data.cache); give prompts instead.")
    cache = read_cache(Path(opened.run.data.cache))
    known = {key: row for row, key in enumerate(cache.keys)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{unknown[0]!r} is no picture of {cache.folder}; the first are "
            f"{', '.join(cache.keys[:5])} …"
        )
    if parts.facts.made:
        refuse_other(cache, parts.facts.made.codec, parts.facts.made.text)
    rows = [known[name] for name in names for _ in range(n)]
    items: list[Item] = [next(iter(cache.captions[row]), None) for row in rows]
    cond = cache.cond(torch.tensor(rows), torch.zeros(len(rows)))
    own = {cache.sizes[bucket] for bucket in cache.bucket[rows].tolist()}
    return items, Ask(cond, cache.null, size=own.pop() if len(own) == 1 else None)


def ask_of(
    parts: Parts,
    ask: Ask,
    negative: str | None,
    size: str | None,
    init: Path | None,
    strength: float,
    count: int,
    device: torch.device,
) -> Ask:
    """The rest of what a drawing is told. Raises ValueError for a size that can't be."""
    sides = _sides(size) if size else ask.size
    height, width = sides or (parts.facts.height, parts.facts.width)
    parts.shape(sides)
    null = parts.text.encode([negative]) if negative else ask.null
    ask = ask._replace(null=null, size=sides)
    if init is None:
        return ask
    pixels = decode(init, channels=parts.facts.channels)
    own = pixels.shape[1], pixels.shape[2]
    fitted = cut(pixels, place(*own, [(height, width)]))
    x1 = encode(parts, fitted[None], device)
    return ask._replace(x1=x1.expand(count, -1, -1, -1), strength=strength)


def untrained(parts: Parts, sides: tuple[int, int] | None) -> str | None:
    """What is worth a word where pictures of this size were never learnt."""
    facts = parts.facts
    known = facts.sizes or ((facts.height, facts.width),)
    if sides is None or sides in known:
        return None
    named = ", ".join(f"{height}x{width}" for height, width in known[:SHOWN])
    return (
        f"{sides[0]}x{sides[1]} was never learnt, only {named}{' …' if len(known) > SHOWN else ''}:"
        " far from it, things are repeated or torn."
    )


def _sides(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"--size {text} is no size; wanted HEIGHTxWIDTH such as 384x640.")
    return int(height), int(width)
