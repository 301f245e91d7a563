"""See it work, offline, in minutes: captioned scenes, a small flow, pictures, a score."""

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pathline.assemble import problems_of, sampler
from pathline.config.resolve import read
from pathline.data.sources.shapes import HELD_OUT, draw, prompts, scored
from pathline.evaluation.adherence import PROMPTS, SCORE_SEED
from pathline.generate import sample_images
from pathline.images import save_png, sheet
from pathline.metrics.scenes import Adherence, adherence
from pathline.recipes.train import EXIT, Trained, run_training

SHOWN = 12  # of each split on the picture
SPLITS = {"seen": "pairs it saw", "held_out": "pairs it never saw"}


def quickstart(
    *,
    out: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    set: list[str] | None = None,
    debug: bool = False,
) -> int:
    """Train a text-to-image flow on drawn scenes, then draw prompts and count what is right.

    Parameters
    ----------
    out:
        The run's folder; by default runs/quickstart-1, -2, …
    seed:
        Settles scenes, weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    set:
        Settings to change, such as --set train.updates=500.
    debug:
        Show tracebacks.
    """
    del debug  # read by the door
    begun = time.perf_counter()
    console = Console()
    flags = {"seed": seed, "device": device}
    run = read("quickstart", (), set or (), flags, check=problems_of).run
    console.print("Scenes of one or two coloured shapes with captions; a flow learns to draw them.")
    trained = run_training(run, out, None, console)
    if trained.outcome.reason != "done":
        return EXIT[trained.outcome.reason]
    scores = {split: _score(trained, run, split) for split in SPLITS}
    _report(scores, console)
    _farewell(trained, time.perf_counter() - begun, console)
    return 0


def _score(trained: Trained, run, split: str) -> tuple[Adherence, Adherence]:
    """Adherence of drawn pictures, and of the detector on real ones; also writes the grid."""
    asked = prompts(split, PROMPTS, SCORE_SEED)
    draws = sampler(run.sample, trained.parts.path)
    with trained.player.emas[0].lent_to(trained.player.network):
        pixels = sample_images(
            trained.parts, asked, list(range(PROMPTS)), draws, batch=run.sample.batch
        )
    page = sheet(pixels[:SHOWN], asked[:SHOWN], columns=6)
    about = {"model": run.name, "steps": run.sample.steps, "solver": run.sample.solver.name}
    save_png(page, trained.folder / f"{split}.png", about)
    real = np.stack([draw(scene) for scene in scored(split, PROMPTS, SCORE_SEED)])
    return adherence(pixels, asked), adherence(torch.from_numpy(real), asked)


def _report(scores: dict[str, tuple[Adherence, Adherence]], console: Console) -> None:
    table = Table("prompts", "n", "atoms right", "whole scene right", "detector's ceiling")
    for split, (drawn, real) in scores.items():
        ceiling = f"{real.mean:.3f} / {real.exact:.3f}"
        table.add_row(
            SPLITS[split], str(drawn.n), f"{drawn.mean:.3f}", f"{drawn.exact:.3f}", ceiling
        )
    console.print(table)
    for split, (drawn, _) in scores.items():
        kinds = ", ".join(f"{kind} {share:.2f}" for kind, share in sorted(drawn.kinds.items()))
        console.print(f"{SPLITS[split]}: {kinds}", highlight=False)
    pairs = ", ".join(" ".join(pair) for pair in HELD_OUT)
    console.print(f"never in a training scene: {pairs}", highlight=False)


def _farewell(trained: Trained, seconds: float, console: Console) -> None:
    where = trained.folder
    lines = (
        f"{seconds:.0f} seconds in all. Pictures: {where / 'seen.png'}, {where / 'held_out.png'};",
        f"losses: {where / 'metrics.jsonl'}; settings: {where / 'run.yaml'}; weights: "
        f"{where / 'checkpoints'}.",
        "Try next:",
        f'  pathline generate {where} "a red circle left of a blue square" --n 4 --trajectory',
        "  pathline train digits",
        "  pathline train PATH/TO/YOUR/PICTURES",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
