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

from pathline.assemble import Parts, sampler
from pathline.config.pick import Pick, bind, pick
from pathline.config.run import Run, Sample
from pathline.evaluation.shared_sampling import random_rows
from pathline.generate import Conditioning, sample_images
from pathline.images import sheet
from pathline.metrics.features import Feature
from pathline.runs import folder as runs
from pathline.runs.dataset import Dataset
from pathline.runs.feed import load_data
from pathline.runs.from_pictures import load_pictures, open_source
from pathline.tables import TABLES
from pathline.training.device import pick_device
from pathline.types import rows_of

Scores = dict[str, dict[str, float]]


def ranks(drawn: Tensor, real: Tensor, own: Tensor) -> Tensor:
    """Of each drawn row, how many real rows are nearer than its own [n]."""
    apart = torch.cdist(drawn.double(), real.double())
    return (apart < apart.gather(1, own[:, None])).sum(1)


def shares(found: Tensor) -> dict[str, float]:
    return {f"top{k}": round((found < k).double().mean().item(), 4) for k in (1, 5, 20)}


def wanted() -> argparse.Namespace:
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


def scores(feature: Feature, real: Tensor, drawn: Tensor, coded: Tensor, rows: Tensor) -> Scores:
    """Of the drawn, both controls and the ceiling; rows: the own real picture of each [n]."""
    seen = feature.embed(real)
    asked = {
        "drawn": (feature.embed(drawn), rows),
        "judged by another's caption": (feature.embed(drawn), rows.roll(1)),
        "another's real picture": (seen[rows.roll(1)], rows),
        "the codec's own": (feature.embed(coded), rows),
    }
    return {name: shares(ranks(x, seen, own)) for name, (x, own) in asked.items()}


def look(real: Tensor, drawn: Tensor, titles: Sequence[str | None], file: Path) -> None:
    """The first sixteen, eight in a row, real above drawn."""
    both, shown = torch.stack([real[:16], drawn[:16]], 1).flatten(0, 1), min(16, len(drawn))
    lines = [range(start, min(start + 8, shown)) for start in range(0, shown, 8)]
    order = [2 * i + j for line in lines for j in (0, 1) for i in line]
    sheet(both[order], [titles[index // 2] or "" for index in order], columns=8).save(file)


def main() -> None:
    given = wanted()
    console, device = Console(stderr=True), pick_device("auto")
    opened = runs.open_run(given.run, console.print)
    parts, weights = runs.parts_of(opened, ema=None, device=device)
    run, _, data_for = load_data(opened.run, None, console)
    data = data_for(parts)
    rows = data.train[random_rows(len(data.train), given.n, given.seed)]
    sample = run.sample
    if given.guidance is not None:
        sample = replace(sample, guidance=pick("cfg", scale=given.guidance))
    drawn = draw(parts, data, rows, sample, given.seed)
    real = reals(run, data.keys, console)
    feature = bind(TABLES["eval.feature"], Pick(given.feature, {}), "feature")(real, None, device)
    said = {
        "run": str(given.run),
        "checkpoint": opened.checkpoint.name,
        "weights": weights,
        "feature": feature.name,
        "n": given.n,
        "seed": given.seed,
        "among": len(real),
        "chance_top5": round(5 / len(real), 5),
        "steps": sample.steps,
        "solver": sample.solver.name,
        "guidance": {"name": sample.guidance.name, **sample.guidance.options},
        **scores(feature, real, drawn, data.pixels(rows), rows),
    }
    print(json.dumps(said, indent=1))
    if given.out:
        look(real[rows], drawn, captions(data, rows), given.out)


if __name__ == "__main__":
    main()
