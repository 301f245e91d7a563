"""PSNR of a memorised data set by solver and steps: how exactly an x1-prediction is sampled.

    pathline train overfit --out OVERFIT train.sample_every=0
    python benchmarks/last_step.py OVERFIT

Each training caption is sampled once, without guidance, and compared with its own image.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pathline.config.pick import bind
from pathline.config.run import PLACES
from pathline.generate import sample_images
from pathline.runs.folder import open_run
from pathline.runs.sampling import checked_sampler, parts_of, sampling_settings
from pathline.tables import TABLES


def psnr(images: Tensor, real: Tensor) -> float:
    """Mean over uint8 images, in dB."""
    errors = (images.double() - real.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / errors)).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="PSNR of memorised images by solver and steps.")
    parser.add_argument("run", type=Path, help="a run of the preset overfit")
    parser.add_argument("--solvers", nargs="+", default=["euler", "heun", "rk4", "unipc2"])
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10, 20])
    arguments = parser.parse_args()

    opened = open_run(arguments.run, print)
    parts, _ = parts_of(opened, ema=None, device=torch.device("cpu"))
    source = bind(TABLES["data.source"], opened.run.data.source, PLACES["data.source"])()
    examples = [source.read(row) for row in range(source.count)]
    real = torch.stack([example.image for example in examples])
    captions, seeds = [example.caption for example in examples], list(range(len(examples)))
    for solver in arguments.solvers:
        values = []
        for steps in arguments.steps:
            words = [f"steps={steps}", f"solver={solver}", "guidance=none"]
            sampler = checked_sampler(parts, sampling_settings(opened, words))
            values.append(psnr(sample_images(parts, captions, seeds, sampler), real))
        print(f"{solver:>8}", *(f"{value:6.1f} dB" for value in values))


if __name__ == "__main__":
    main()
