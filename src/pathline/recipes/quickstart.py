"""`pathline quickstart`: captioned scenes, a small flow, images and their score, in minutes."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.console import Say, open_console, print_table, say_on
from pathline.data.sources.shapes import HELD_OUT, draw, prompts, scored
from pathline.evaluation.adherence import PROMPTS, SCORE_SEED
from pathline.evaluation.training import EXIT, Trained, run_training
from pathline.files import unused
from pathline.generate import sample_images
from pathline.hints import command_line
from pathline.images import save_sheet, sheet
from pathline.metrics.scenes import Adherence, adherence
from pathline.ranges import Seed
from pathline.runs.sampling import checked_sampler, sampling_ema
from pathline.tables import TABLES

SHOWN = 12  # images of each split in the sheet
SPLITS = {"seen": "trained colour-shape pairs", "held_out": "unseen colour-shape pairs"}


def quickstart(
    *settings: str,
    out: Path | None = None,
    seed: Seed | None = None,
    device: str | None = None,
    debug: bool = False,
) -> int:
    """Train a text-to-image flow on captioned scenes, sample prompts and score the images.

    Parameters
    ----------
    settings:
        Settings to change as key=value, such as train.updates=500
        (`pathline config show quickstart` prints all).
    out:
        The run's folder; by default runs/quickstart-1, -2, …
    seed:
        Seed of scenes, weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    debug:
        Show tracebacks.
    """
    del debug  # read by the command line
    started = time.perf_counter()
    console = open_console()
    flags = {"seed": seed, "device": device}
    run = read("quickstart", (), settings, flags, tables=TABLES).run
    say_on(console)("Training a flow on scenes of one or two coloured shapes with captions.")
    trained = run_training(run, out, None, console)
    if trained.outcome.reason == "done":
        finish(trained, console, started)
    return EXIT[trained.outcome.reason]


def finish(trained: Trained, console: Console, started: float) -> None:
    """Score a trained quickstart, write its sheets, and print what to try next.

    Scored by a detector that reads scenes from pixels: no network needs to be downloaded.
    """
    pages = {split: unused(trained.folder / f"{split}.png") for split in SPLITS}
    scores = {split: _score(trained, split, page) for split, page in pages.items()}
    _print_scores(scores, console)
    _print_next_steps(trained.folder, list(pages.values()), started, say_on(console))


def _score(trained: Trained, split: str, file: Path) -> tuple[Adherence, Adherence]:
    """Adherence of sampled images, and of the detector on real ones; also writes a sheet."""
    run: Run = trained.run
    texts = prompts(split, PROMPTS, SCORE_SEED)
    sampler, player = checked_sampler(trained.parts, run.sample), trained.team.players[0]
    seeds = list(range(PROMPTS))
    with sampling_ema(run, player.emas).lent_to(player.network):
        pixels = sample_images(trained.parts, texts, seeds, sampler, batch=run.sample.batch)
    page = sheet(pixels[:SHOWN], texts[:SHOWN], columns=6)
    settings = {"model": run.name, "steps": run.sample.steps, "solver": run.sample.solver.name}
    save_sheet(page, file, settings)
    real = np.stack([draw(scene) for scene in scored(split, PROMPTS, SCORE_SEED)])
    return adherence(pixels, texts), adherence(torch.from_numpy(real), texts)


def _print_scores(scores: dict[str, tuple[Adherence, Adherence]], console: Console) -> None:
    heads = ("prompts", "n", "attribute accuracy", "whole-scene accuracy")
    table = Table(*heads, "detector accuracy on real images")
    for split, (sampled, real) in scores.items():
        numbers = f"{sampled.mean:.3f}", f"{sampled.exact:.3f}"
        limit = f"{real.mean:.3f} / {real.exact:.3f}"
        table.add_row(SPLITS[split], str(sampled.n), *numbers, limit)
    print_table(console, table)
    say = say_on(console)
    for split, (sampled, _) in scores.items():
        kinds = ", ".join(f"{kind} {share:.2f}" for kind, share in sorted(sampled.kinds.items()))
        say(f"{SPLITS[split]}: accuracy by attribute: {kinds}")
    pairs = ", ".join(" ".join(pair) for pair in HELD_OUT)
    say(f"unseen colour-shape pairs, in no training scene: {pairs}")


def _print_next_steps(folder: Path, pages: Sequence[Path], started: float, say: Say) -> None:
    say(f"{time.perf_counter() - started:.0f} seconds in all. Images: {', '.join(map(str, pages))}")
    say(
        f"losses: {folder / 'metrics.jsonl'}; settings: {folder / 'run.yaml'}; weights: "
        f"{folder / 'checkpoints'}"
    )
    prompt = "a red circle left of a blue square"
    say("Try next:")
    for words in (
        ("generate", folder, prompt, "--n", 4, "--trajectory"),
        ("train", "digits"),
        ("train", "PATH/TO/YOUR/PICTURES"),
    ):
        say(f"  {command_line(*words)}")
