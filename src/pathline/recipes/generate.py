"""Draw pictures from a run, as PNG files that say how they were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from pathline.assemble import Parts, Sampler, problems_of, sampler
from pathline.config.read import read
from pathline.config.run import Sample
from pathline.generate import decode, states, title
from pathline.generate import generate as draw
from pathline.picture import gif, image, save_png, sheet
from pathline.recipes import folder as runs
from pathline.training.parallel import pick_device

Item = str | int | None
FRAMES = 12  # states of a strip


class Drawn(NamedTuple):
    """What is to be drawn and with what."""

    parts: Parts
    items: list[Item]
    seeds: list[int]
    sampler: Sampler
    weak: nn.Module | None
    about: dict[str, Any]


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
    items = _items(parts, prompts, label, class_grid, n)
    about = {
        "steps": sample.steps,
        "solver": sample.solver.name,
        "guidance": sample.guidance.options.get("scale"),
        "model": opened.run.name,
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
    }
    drawn = Drawn(
        parts,
        items,
        [seed + index for index in range(len(items))],
        sampler(sample, parts.path),
        _weaker(weak, chosen, console),
        about,
    )
    where = out or opened.folder / "pictures"
    where.mkdir(parents=True, exist_ok=True)
    files = _pictures(drawn, where, sample.batch, len(parts.facts.names) if class_grid else 0)
    files += _trajectories(drawn, where) if trajectory else []
    console.print(f"{len(items)} pictures with {weights}: {where}", soft_wrap=True, highlight=False)
    console.print(f"look at {files[-1]}", soft_wrap=True, highlight=False)
    return 0


def _sample(opened: runs.Opened, steps, solver, guidance, further: Sequence[str]) -> Sample:
    """The run's own sampling settings with what was asked for laid over them."""
    said = {"steps": steps, "solver": solver, "guidance.scale": guidance}
    overrides = [f"sample.{key}={value}" for key, value in said.items() if value is not None]
    overrides = [*(f"sample.{text}" for text in further), *overrides]
    base = opened.checkpoint / runs.SETTINGS
    return read(None, (), overrides, base=base, check=problems_of).run.sample


def _items(
    parts: Parts, prompts: Sequence[str], label, class_grid: bool, n: int | None
) -> list[Item]:
    names = parts.facts.names
    if n is not None and n < 1:
        raise ValueError(f"--n {n} asks for no picture; give 1 or more.")
    if sum([bool(prompts), label is not None, class_grid]) > 1:
        raise ValueError("Give prompts, or --label, or --class-grid: one of them.")
    if (class_grid or label is not None) and parts.text.null.labels is None:
        raise ValueError("This run knows no classes; give it prompts, or nothing for anything.")
    if class_grid:
        return [index for index in range(len(names)) for _ in range(n or 8)]
    asked: list[Item] = [label] if label is not None else list(prompts)
    return [item for item in asked for _ in range(n or 1)] if asked else [None] * (n or 16)


def _weaker(weak: Path | None, device: torch.device, console: Console) -> nn.Module | None:
    if weak is None:
        return None
    opened = runs.open_run(weak, lambda text: console.print(f"warning: {text}", soft_wrap=True))
    return runs.parts_of(opened, ema=None, device=device)[0].network


def _pictures(drawn: Drawn, where: Path, batch: int, rows: int) -> list[Path]:
    pixels = draw(
        drawn.parts, drawn.items, drawn.seeds, drawn.sampler, batch=batch, weak=drawn.weak
    )
    files = []
    for picture, item, seed in zip(pixels, drawn.items, drawn.seeds, strict=True):
        files.append(_free(where / f"{_slug(title(drawn.parts, item))}-{seed}.png"))
        save_png(
            image(picture),
            files[-1],
            drawn.about | {"prompt": title(drawn.parts, item), "seed": seed},
        )
    if len(files) > 1:
        titles = [] if rows else [title(drawn.parts, item) for item in drawn.items]
        files.append(_free(where / "sheet.png"))
        columns = len(files[:-1]) // rows if rows else None
        save_png(
            sheet(pixels, titles, columns=columns),
            files[-1],
            drawn.about | {"seed": drawn.seeds[0]},
        )
    return files


def _trajectories(drawn: Drawn, where: Path) -> list[Path]:
    """A strip of the first pictures' states, one picture a row, and a GIF of them."""
    rows = min(len(drawn.items), 8)
    walk = states(
        drawn.parts, drawn.items[:rows], drawn.seeds[:rows], drawn.sampler, weak=drawn.weak
    )
    seen = [decode(drawn.parts, x) for _, x in walk]
    kept = [seen[round(i * (len(seen) - 1) / (FRAMES - 1))] for i in range(min(FRAMES, len(seen)))]
    strip = torch.stack(kept, dim=1).flatten(0, 1)
    files = [_free(where / "trajectory.png"), _free(where / "trajectory.gif")]
    save_png(sheet(strip, columns=len(kept)), files[0], drawn.about | {"seed": drawn.seeds[0]})
    gif([sheet(frame) for frame in seen], files[1])
    return files


def _slug(text: str) -> str:
    return (
        "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:60] or "picture"
    )


def _free(file: Path) -> Path:
    """The file, or it with a number behind if it is there already: nothing is overwritten."""
    if not file.exists():
        return file
    paths = (file.with_stem(f"{file.stem}-{number}") for number in range(2, 10**6))
    return next(path for path in paths if not path.exists())
