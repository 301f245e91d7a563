"""Draw pictures from a run, as PNG files that say how they were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pathline.assemble import Parts, problems_of, sampler
from pathline.config.resolve import read
from pathline.config.run import Sample
from pathline.runs import folder as runs
from pathline.runs.picture_files import Drawing, pictures, trajectories
from pathline.runs.prompts import Asked, ask_of, items_of, untrained
from pathline.training.device import pick_device


def generate(
    run: Path,
    /,
    *prompts: str,
    n: int | None = None,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    label: int | None = None,
    class_grid: bool = False,
    prompt_file: Path | None = None,
    from_cache: Sequence[str] = (),
    negative: str | None = None,
    size: str | None = None,
    init: Path | None = None,
    strength: float = 0.6,
    seed: int = 0,
    trajectory: bool = False,
    out: Path | None = None,
    ema: float | Path | None = None,
    weak: Path | None = None,
    set: Sequence[str] = (),
    device: str = "auto",
    debug: bool = False,
) -> int:
    """Draw pictures from a trained run.

    Parameters
    ----------
    run:
        A run folder, one of its checkpoints, or "latest".
    prompts:
        What to draw, each in quotes; none for anything, or for every class in turn.
    n:
        Pictures of each prompt or label: 1 by default, 8 with --class-grid, 16 without prompts.
    steps:
        Solver steps; the run's own by default, as are solver and guidance.
    solver:
        euler, heun, midpoint, unipc2, … (`pathline config list sample.solver`).
    guidance:
        Scale of the guidance; 1 is none.
    label:
        A class by its number.
    class_grid:
        Every class, n pictures each, one class a row.
    prompt_file:
        A text file of prompts, one a line.
    from_cache:
        A picture of the run's cache by its name: drawn by its caption as the cache holds it, which
        needs no text encoder; may be given again.
    negative:
        A prompt that guidance leads away from, in place of none.
    size:
        HEIGHTxWIDTH in pixels; of the backbones dit and ddt draw only what they were trained on.
    init:
        A picture to begin from, cut and scaled to the size.
    strength:
        How much of it is drawn anew, above 0 and up to 1.
    seed:
        Of the first picture; the next has seed + 1, and each is the same drawn alone.
    trajectory:
        Also the way from noise to picture, as a strip and a GIF.
    out:
        Folder of the pictures; by default RUN/pictures.
    ema:
        Which average of the weights: its decay, 0 for the weights themselves, or a file that
        `pathline ema` has written.
    weak:
        A weaker run or checkpoint to lead away from, for set=guidance=autoguidance.
    set:
        Further sampling settings, such as --set guidance=interval --set guidance.low=0.2.
    device:
        auto, cpu, cuda, cuda:1, mps.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    console = Console()
    opened = runs.open_run(run, lambda text: console.print(f"warning: {text}", soft_wrap=True))
    chosen = pick_device(device)
    sample = _sample(opened, steps, solver, guidance, set)
    parts, weights = runs.parts_of(
        opened, ema=ema if ema is not None else sample.ema, device=chosen
    )
    asked = Asked(prompts, prompt_file, from_cache, label, class_grid, n)
    items, ask = items_of(opened, parts, asked)
    ask = ask_of(parts, ask, negative, size, init, strength, len(items), chosen)
    if strange := untrained(parts, ask.size):
        console.print(f"warning: {strange}", soft_wrap=True, highlight=False)
    drawing = Drawing(
        parts,
        items,
        [seed + index for index in range(len(items))],
        sampler(sample, parts.path),
        _weaker(weak, chosen, console),
        _about(opened, sample, weights),
        ask,
    )
    where = out or opened.folder / "pictures"
    where.mkdir(parents=True, exist_ok=True)
    rows = len(parts.facts.names) if class_grid else 0
    files = pictures(drawing, where, sample.batch, rows)
    files += trajectories(drawing, where) if trajectory else []
    console.print(f"{len(items)} pictures with {weights}: {where}", soft_wrap=True, highlight=False)
    console.print(f"look at {files[-1]}", soft_wrap=True, highlight=False)
    return 0


def _about(opened: runs.Opened, sample: Sample, weights: str) -> dict[str, Any]:
    return {
        "steps": sample.steps,
        "solver": sample.solver.name,
        "guidance": sample.guidance.options.get("scale"),
        "model": opened.run.name,
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
    }


def _sample(opened: runs.Opened, steps, solver, guidance, further: Sequence[str]) -> Sample:
    """The run's own sampling settings with what was asked for laid over them."""
    said = {"steps": steps, "solver": solver, "guidance.scale": guidance}
    overrides = [f"sample.{key}={value}" for key, value in said.items() if value is not None]
    overrides = [*(f"sample.{text}" for text in further), *overrides]
    base = opened.checkpoint / runs.SETTINGS
    return read(None, (), overrides, base=base, check=problems_of).run.sample


def _weaker(weak: Path | None, device: torch.device, console: Console) -> Parts | None:
    if weak is None:
        return None
    opened = runs.open_run(weak, lambda text: console.print(f"warning: {text}", soft_wrap=True))
    return runs.parts_of(opened, ema=None, device=device)[0]
