"""From prompts, labels and image files on the command line to items and their conditioning."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import torch
from PIL.Image import Image

from pathline.assemble import labelled
from pathline.config.run import Run
from pathline.data.buckets import cut, place
from pathline.data.cache.reader import read as read_cache
from pathline.data.cache.reader import refuse_other
from pathline.data.transforms import decode
from pathline.generate import UNCONDITIONED, Conditioning, encode_images
from pathline.parts import Parts
from pathline.runs.folder import Opened
from pathline.types import Item

SHOWN = 5  # names in a message


class PromptFlags(NamedTuple):
    """What the command line says about the images; at most one of the first five."""

    prompts: Sequence[Item] = ()  # prompts, or classes by name or number
    file: Path | None = None
    cached: Sequence[str] = ()  # names of pictures in the run's cache
    label: int | None = None
    class_grid: bool = False
    n: int | None = None  # images of each


class InputFlags(NamedTuple):
    """What else the images are conditioned on."""

    negative: str | None = None
    size: str | None = None  # HEIGHTxWIDTH
    init: Path | Image | None = None  # an image to start from
    strength: float = 1.0


def read_items(opened: Opened, parts: Parts, flags: PromptFlags) -> tuple[list[Item], Conditioning]:
    """One item for each image, and their conditioning where a cache has it encoded."""
    # One kind of request at a time.
    sources = [
        *(flags.prompts, flags.file, flags.cached),
        *(flags.label is not None, flags.class_grid),
    ]
    if sum(map(bool, sources)) > 1:
        raise ValueError(
            "Give prompts, or --prompt-file, --from-cache, --label or --class-grid: one of them."
        )
    n = flags.n
    if n is not None and n < 1:
        raise ValueError(f"--n {n} samples no image; give 1 or more.")
    if flags.cached:
        return _read_cached(opened, parts, flags.cached, n or 1)
    is_class = flags.class_grid or flags.label is not None
    is_class = is_class or any(isinstance(item, int) for item in flags.prompts)
    if is_class and not labelled(parts.text):
        raise ValueError(
            "--label and --class-grid are for runs trained on classes, and this run has none; "
            "give prompts, or nothing for unconditional images."
        )
    # Every class in turn, or prompts repeated n times each.
    if flags.class_grid:
        classes = range(len(parts.facts.names))
        return [index for index in classes for _ in range(n or 8)], UNCONDITIONED
    prompts: list[Item] = [*flags.prompts]
    if flags.label is not None:
        prompts.append(flags.label)
    prompts += read_lines(flags.file, "--prompt-file") if flags.file else []
    if not prompts:
        return [None] * (n or 16), UNCONDITIONED
    return [item for item in prompts for _ in range(n or 1)], UNCONDITIONED


def read_lines(file: Path, setting: str) -> list[str]:
    """The prompts of a file, one a line; empty lines and those that begin with # are none.

    setting: what named the file. Raises ValueError, or FileNotFoundError, for what is no UTF-8 text
    with a prompt.
    """
    if not file.is_file():
        fault = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{setting} {file} {fault}; give a text file with a prompt on each line."
        )
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise ValueError(
            f"{setting} {file}, line {line}, is no UTF-8 text: byte "
            f"0x{content[fault.start]:02x} at {fault.start}. Save it as UTF-8; from Latin-1: "
            f"iconv -f latin1 -t utf-8 {quote(str(file))} > prompts-utf8.txt"
        ) from None
    if "\0" in text:
        raise ValueError(f"{setting} {file} is no text: it has null bytes. Give a text file.")
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{setting} {file} has no prompt; write one on each line.")
    return prompts


def with_prompts(run: Run) -> Run:
    """The run with the prompts of its sample grids written out, where it names a file of them."""
    prompts = run.sample.prompts
    if len(prompts) != 1 or Path(prompts[0]).suffix.lower() != ".txt":
        return run
    lines = tuple(read_lines(Path(prompts[0]), "sample.prompts"))
    return replace(run, sample=replace(run.sample, prompts=lines))


def _read_cached(
    opened: Opened, parts: Parts, names: Sequence[str], n: int
) -> tuple[list[Item], Conditioning]:
    """The captions of cached pictures as the cache has them encoded: no text encoder is needed."""
    if not opened.run.data.cache:
        raise ValueError("--from-cache is for runs on a cache (data.cache); give prompts instead.")
    cache = read_cache(Path(opened.run.data.cache))
    row_of = {key: row for row, key in enumerate(cache.keys)}
    if unknown := [name for name in names if name not in row_of]:
        raise ValueError(
            f"--from-cache {unknown[0]!r} is no picture of {cache.folder}; the first are "
            f"{', '.join(cache.keys[:SHOWN])} …"
        )
    # States of another encoder would condition the network on something else.
    if parts.facts.cache:
        refuse_other(cache, parts.facts.cache.codec, parts.facts.cache.text)
    # Conditions as the cache stores them, so no text encoder is needed.
    rows = [row_of[name] for name in names for _ in range(n)]
    items: list[Item] = [next(iter(cache.captions[row]), None) for row in rows]
    cond = cache.cond(torch.tensor(rows), torch.zeros(len(rows)))
    sizes = {cache.sizes[bucket] for bucket in cache.bucket[rows].tolist()}
    return items, Conditioning(cond, cache.null, size=sizes.pop() if len(sizes) == 1 else None)


def read_conditioning(
    parts: Parts,
    conditioning: Conditioning,
    flags: InputFlags,
    *,
    count: int,
    device: torch.device,
) -> Conditioning:
    """The conditioning of `count` images, with negative prompt, size and initial image.

    Raises ValueError for a size that this run can't sample.
    """
    size = _read_size(flags.size) if flags.size else conditioning.size
    height, width = size or (parts.facts.height, parts.facts.width)
    # Raises ValueError for a size that the codec or the backbone rules out.
    parts.shape(size)
    null = parts.text.encode([flags.negative]) if flags.negative else conditioning.null
    conditioning = conditioning._replace(null=null, size=size)
    if flags.init is None:
        return conditioning
    if isinstance(flags.init, Path) and not flags.init.is_file():
        fault = "is a folder" if flags.init.is_dir() else "does not exist"
        raise FileNotFoundError(f"--init {flags.init} {fault}; give one picture file.")
    # Cut as pictures of the training are.
    pixels = decode(flags.init, channels=parts.facts.channels)
    pixels = cut(pixels, place(pixels.shape[1], pixels.shape[2], [(height, width)]))
    x1 = encode_images(parts, pixels[None], device)
    return conditioning._replace(x1=x1.expand(count, -1, -1, -1), strength=flags.strength)


def untrained_size(parts: Parts, size: tuple[int, int] | None) -> str | None:
    """A warning where the run was not trained on images of this (height, width)."""
    facts = parts.facts
    trained = facts.sizes or ((facts.height, facts.width),)
    if size is None or size in trained:
        return None
    names = ", ".join(f"{height}x{width}" for height, width in trained[:SHOWN])
    return (
        f"size {size[0]}x{size[1]} was not trained on, only "
        f"{names}{' …' if len(trained) > SHOWN else ''}: far from these, things repeat or tear."
    )


def _read_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"--size {text} is no size; give HEIGHTxWIDTH in pixels, such as 384x640.")
    return int(height), int(width)
