"""Can it learn one picture by heart: PSNR of what is drawn to the codec's own reconstruction.

    python benchmarks/one_picture.py PICTURE codec=taef2 codec.path=WEIGHTS

Preprocesses a folder of this one picture, trains on it, draws it from the cache with eight seeds.
The control is another picture of the same seeds: what the untrained weights draw.
"""

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pathline.assemble import put_on, sampler
from pathline.cli import main as pathline
from pathline.config.resolve import read
from pathline.console import open_console
from pathline.evaluation.training import run_training
from pathline.generate import sample_images
from pathline.runs.from_cache import adopt_cache

NET = ("backbone=stream_dit", "backbone.size=nano/2", "text=none", "codec=taef2", "data.size=128")
TRAIN = (
    *("train.updates=400", "train.batch=8", "train.ema=[0.98]", "train.sample_every=0"),
    *("train.validate_every=0", "train.save_every=400", "train.precision=fp32"),
    *("optimizer.lr=2e-3", "data.holdout=0", "sample.steps=20", "data.buckets.max_ratio=1"),
)
SEEDS = 8


def psnr(a: Tensor, b: Tensor) -> float:
    """Of uint8 pictures, in dB."""
    error = (a.double() - b.double()).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("picture", type=Path)
    arguments.add_argument("settings", nargs="*")
    options = arguments.parse_args()
    home = Path(tempfile.mkdtemp())
    (home / "one").mkdir()
    shutil.copy(options.picture, home / "one")
    cache = f"data.cache={home / 'cache'}"
    settings = [*NET, *TRAIN, *options.settings]
    if pathline(["preprocess", str(home / "one"), *settings, "--out", str(home / "cache")]):
        raise SystemExit("preprocess failed")
    run = adopt_cache(read("own-large", (), [*settings, cache]))
    trained = run_training(run, home / "run", None, open_console(stderr=True))
    parts, player = trained.parts, trained.team.players[0]
    put_on(parts, torch.device("cpu"))
    (target,) = trained.data.pixels(torch.zeros(1, dtype=torch.long))
    draws, items = sampler(run.sample, parts.path), [None] * SEEDS
    with player.emas[0].lent_to(player.network):
        samples = sample_images(parts, items, range(SEEDS), draws)
    for weight in player.network.parameters():
        weight.data.zero_()
    untrained = sample_images(parts, items, range(SEEDS), draws)
    report = {
        "updates": trained.outcome.progress.update,
        "worst_psnr": min(psnr(picture, target) for picture in samples),
        "control_psnr": max(psnr(picture, target) for picture in untrained),
    }
    print(json.dumps({k: round(v, 2) for k, v in report.items()}))


if __name__ == "__main__":
    main()
