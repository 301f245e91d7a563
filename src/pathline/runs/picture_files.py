"""Images that a run is asked for, and their files: PNGs with settings inside, a sheet, a GIF."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.config.run import Run, Sample
from pathline.files import unused
from pathline.generate import (
    UNCONDITIONED,
    Conditioning,
    Done,
    Step,
    decode_images,
    generate,
    item_text,
)
from pathline.images import gif, image, save_png, save_sheet, sheet
from pathline.parts import Parts, Sampler
from pathline.runs.folder import Opened
from pathline.runs.prompts import (
    InputFlags,
    PromptFlags,
    read_conditioning,
    read_items,
    untrained_size,
)
from pathline.runs.sampling import checked_sampler
from pathline.text.table import is_frozen
from pathline.types import Item

FRAMES = 12  # states in a strip
ROWS = 8  # images in a strip


class SamplingRequest(NamedTuple):
    """The images to sample, with which network and sampler."""

    parts: Parts
    items: list[Item]
    seeds: list[int]
    sampler: Sampler
    weak: Parts | None  # of autoguidance
    settings: dict[str, Any]  # as they are written into every PNG
    conditioning: Conditioning = UNCONDITIONED
    batch: int = 64


def prepare_request(
    opened: Opened[Run],
    parts: Parts,
    sample: Sample,
    *,
    prompts: PromptFlags,
    inputs: InputFlags,
    seed: int,
    weak: Parts | None,
    weights: str,
    warn: Callable[[str], None],
) -> SamplingRequest:
    """The images to sample: one item and one seed for each. Raises ValueError for what can't be.

    weights: which of the run's they are, for the files.
    """
    items, conditioning = read_items(opened, parts, prompts)
    # Every prompt is checked before the first image, where that takes no encoder.
    if not is_frozen(opened.run.text.name):
        parts.text.encode(items)
    device = next(parts.network.parameters()).device
    conditioning = read_conditioning(parts, conditioning, inputs, count=len(items), device=device)
    if warning := untrained_size(parts, conditioning.size):
        warn(warning)
    settings = {
        "steps": sample.steps,
        "solver": sample.solver.name,
        "guidance": sample.guidance.options.get("scale"),
        "model": opened.run.name,
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
    }
    return SamplingRequest(
        parts,
        items,
        [seed + index for index in range(len(items))],
        checked_sampler(parts, sample, weak),
        weak,
        settings,
        conditioning,
        sample.batch,
    )


def sample_request(request: SamplingRequest) -> Iterator[Step | Done]:
    """The events of `generate` for these images."""
    return generate(
        request.parts,
        request.items,
        request.seeds,
        request.sampler,
        batch=request.batch,
        weak=request.weak,
        conditioning=request.conditioning,
    )


def write_images(
    request: SamplingRequest, folder: Path, *, sheet_rows: int = 0, trajectory: bool = False
) -> list[Path]:
    """Sample all images; write each as it is done, then a sheet of several.

    sheet_rows: rows of the sheet, without titles; 0: about square, with titles. trajectory: also
    the states of the first images, as a strip and a GIF. Returns the files in this order.
    """
    parts, items, seeds = request.parts, request.items, request.seeds
    # Each image is written as soon as it is done, so that an interruption loses none.
    files, pixels, states = [], [], []
    for event in sample_request(request):
        if isinstance(event, Done):
            text, seed = item_text(parts, items[event.row]), seeds[event.row]
            files.append(unused(folder / f"{_slug(text)}-{seed}.png"))
            settings = request.settings | {"prompt": text, "seed": seed}
            save_png(image(event.pixels), files[-1], settings)
            pixels.append(event.pixels)
        elif trajectory and event.rows.start == 0:
            states.append(decode_images(parts, event.x[:ROWS]))
    # A sheet of all images, with the settings of the first.
    settings = request.settings | {"seed": seeds[0]}
    if len(pixels) > 1:
        titles = [] if sheet_rows else [item_text(parts, item) for item in items]
        columns = len(pixels) // sheet_rows if sheet_rows else None
        files.append(unused(folder / "sheet.png"))
        save_sheet(sheet(torch.stack(pixels), titles, columns=columns), files[-1], settings)
    return files + (_write_trajectory(states, folder, settings) if trajectory else [])


def _write_trajectory(states: list[Tensor], folder: Path, settings: dict[str, Any]) -> list[Path]:
    """A strip of some states, one image a row, and a GIF of all."""
    count = min(FRAMES, len(states))
    shown = [states[round(i * (len(states) - 1) / (FRAMES - 1))] for i in range(count)]
    strip = torch.stack(shown, dim=1).flatten(0, 1)
    files = [unused(folder / "trajectory.png"), unused(folder / "trajectory.gif")]
    save_sheet(sheet(strip, columns=count), files[0], settings)
    gif([sheet(frame) for frame in states], files[1])
    return files


def _slug(text: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:60] or "picture"
