"""Drawn digits judged: a classifier's accuracy and the Fréchet distance in raw pixels.

python benchmarks/digits.py [--out FOLDER] [key=value …]

Trains the preset from nothing, draws 1,000 digits without guidance, and prints one JSON line with
the time, the judge's accuracy on held-out real digits, its accuracy on the drawn ones, and the
distances to the training digits beside that of real held-out ones. Pixels are in [-1, 1].
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC

from pathline.assemble import sampler
from pathline.config.pick import pick
from pathline.config.resolve import read
from pathline.console import open_console
from pathline.data import order
from pathline.data.sources.rows import digits
from pathline.evaluation.training import run_training
from pathline.generate import sample_images
from pathline.metrics.frechet import frechet, statistics
from pathline.runs.dataset import HOLDOUT_SEED
from pathline.tables import TABLES

SAMPLES = 1000
GAMMA: Any = 0.064  # of the judge; pyright takes the default's type, a word, for the only one


def real(holdout: float) -> tuple[torch.Tensor, np.ndarray, int]:
    """Digits in the run's order, held-out ones first; their labels; how many are held out."""
    source = digits()
    examples = [source.read(int(row)) for row in order.epoch_order(HOLDOUT_SEED, 0, source.count)]
    pixels = torch.stack([example.image for example in examples])
    return features(pixels), np.array([e.label for e in examples]), round(holdout * source.count)


def features(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flatten(1).double() / 127.5 - 1


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("settings", nargs="*")
    options = arguments.parse_args()
    run = read("digits", (), options.settings, tables=TABLES).run
    begun = time.perf_counter()
    folder = options.out or Path(tempfile.mkdtemp()) / "digits"
    trained = run_training(run, folder, None, open_console(stderr=True))
    trained_in = time.perf_counter() - begun
    labels = [index % 10 for index in range(SAMPLES)]
    plain = run.sample.__class__(**{**vars(run.sample), "guidance": pick("none")})
    with trained.team.players[0].emas[0].lent_to(trained.team.players[0].network):
        draws = sampler(plain, trained.parts.path)
        pixels = sample_images(trained.parts, labels, list(range(SAMPLES)), draws, batch=500)
    x, y, held = real(run.data.holdout)
    judge = SVC(gamma=GAMMA, C=10).fit(x[held:].numpy(), y[held:])
    sampled, train = statistics(features(pixels)), statistics(x[held:])
    half = (len(x) - held) // 2
    print(
        json.dumps(
            {
                "seconds": round(trained_in, 1),
                "updates": trained.outcome.progress.update,
                "n": SAMPLES,
                "judge_on_real": round(judge.score(x[:held].numpy(), y[:held]), 4),
                "judge_on_drawn": round(judge.score(features(pixels).numpy(), labels), 4),
                "fd_drawn_train": round(frechet(sampled, train), 3),
                "fd_drawn_held_out": round(frechet(sampled, statistics(x[:held])), 3),
                "fd_held_out_train": round(frechet(statistics(x[:held]), train), 3),
                "fd_halves_of_train": round(
                    frechet(statistics(x[held : held + half]), statistics(x[held + half :])), 3
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
