"""Are pictures drawn for training captions those captions' pictures: rank among all of them.

    python benchmarks/retrieval.py runs/emoji-1 --n 64

Every drawn picture is compared with every real one by a feature (main axes of pixels, or any of
`pathline config list eval.feature`); its rank is that of its own caption's picture. Two controls
show that the measure can fail: the same pictures judged as if each had been asked for another's
caption, and real pictures of other captions in place of drawn ones. The ceiling is the codec's own
reconstruction of the right picture.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from pathline.assemble import sampler
from pathline.config.pick import Pick, bind, pick
from pathline.config.run import Run, Sample
from pathline.console import open_console
from pathline.evaluation.training_images import random_rows
from pathline.generate import Conditioning, sample_images
from pathline.images import sheet
from pathline.metrics.features import Feature
from pathline.parts import Parts
from pathline.runs import folder as runs
from pathline.runs.dataset import Dataset
from pathline.runs.feed import load_data
from pathline.runs.from_pictures import load_pictures, open_source
from pathline.runs.sampling import parts_of
from pathline.tables import TABLES
from pathline.training.device import pick_device
from pathline.types import rows_of

Scores = dict[str, dict[str, float]]


def ranks(samples: Tensor, real: Tensor, targets: Tensor) -> Tensor:
    """Of each drawn row, how many real rows are nearer than its own [n]."""
    apart = torch.cdist(samples.double(), real.double())
    return (apart < apart.gather(1, targets[:, None])).sum(1)


def shares(positions: Tensor) -> dict[str, float]:
    return {f"top{k}": round((positions < k).double().mean().item(), 4) for k in (1, 5, 20)}


def parse_arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--n", type=int, default=64)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--feature", default="pca")
    arguments.add_argument("--guidance", type=float)
    arguments.add_argument("--out", type=Path, help="a picture: real above drawn")
    return arguments.parse_args()


def draw(parts: Parts, data: Dataset, rows: Tensor, sample: Sample, seed: int) -> Tensor:
    """A picture for the caption of each row [n c h w]."""
    conditioning = Conditioning(cond=data.cond(rows, None), null=rows_of(data.null, slice(1)))
    seeds = [seed + index for index in range(len(rows))]
    walk = sampler(sample, parts.path)
    return sample_images(
        parts, captions(data, rows), seeds, walk, batch=32, conditioning=conditioning
    )


def captions(data: Dataset, rows: Tensor) -> list[str | None]:
    return [data.captions[row] if data.captions else None for row in rows.tolist()]


def reals(run: Run, keys: Sequence[str], console: Console) -> Tensor:
    """The real pictures of these keys, in their order [n c h w]."""
    run, source = open_source(run)
    pictures = load_pictures(run.data, source, None, console)
    place = {key: index for index, key in enumerate(pictures.keys)}
    return pictures.pixels[[place[key] for key in keys]]


def scores(feature: Feature, real: Tensor, samples: Tensor, coded: Tensor, rows: Tensor) -> Scores:
    """Of the drawn, both controls and the ceiling; rows: the own real picture of each [n]."""
    real_features = feature.embed(real)
    comparisons = {
        "drawn": (feature.embed(samples), rows),
        "judged by another's caption": (feature.embed(samples), rows.roll(1)),
        "another's real picture": (real_features[rows.roll(1)], rows),
        "the codec's own": (feature.embed(coded), rows),
    }
    return {
        name: shares(ranks(x, real_features, targets)) for name, (x, targets) in comparisons.items()
    }


def look(real: Tensor, samples: Tensor, titles: Sequence[str | None], file: Path) -> None:
    """The first sixteen, eight in a row, real above drawn."""
    both, shown = torch.stack([real[:16], samples[:16]], 1).flatten(0, 1), min(16, len(samples))
    lines = [range(start, min(start + 8, shown)) for start in range(0, shown, 8)]
    order = [2 * i + j for line in lines for j in (0, 1) for i in line]
    sheet(both[order], [titles[index // 2] or "" for index in order], columns=8).save(file)


def main() -> None:
    options = parse_arguments()
    console, device = open_console(stderr=True), pick_device("auto")
    opened = runs.open_run(options.run, console.print)
    parts, weights = parts_of(opened, ema=None, device=device)
    run, _, data_for = load_data(opened.run, None, console)
    data = data_for(parts)
    rows = data.train[random_rows(len(data.train), options.n, options.seed)]
    sample = run.sample
    if options.guidance is not None:
        sample = replace(sample, guidance=pick("cfg", scale=options.guidance))
    samples = draw(parts, data, rows, sample, options.seed)
    real = reals(run, data.keys, console)
    feature = bind(TABLES["eval.feature"], Pick(options.feature, {}), "feature")(real, None, device)
    report = {
        "run": str(options.run),
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
        "feature": feature.name,
        "n": options.n,
        "seed": options.seed,
        "among": len(real),
        "chance_top5": round(5 / len(real), 5),
        "steps": sample.steps,
        "solver": sample.solver.name,
        "guidance": {"name": sample.guidance.name, **sample.guidance.options},
        **scores(feature, real, samples, data.pixels(rows), rows),
    }
    print(json.dumps(report, indent=1))
    if options.out:
        look(real[rows], samples, captions(data, rows), options.out)


if __name__ == "__main__":
    main()
