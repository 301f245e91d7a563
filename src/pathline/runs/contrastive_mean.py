"""The mean velocity of a run with a contrastive term, which its guidance needs in sampling.

With independent negatives the term learns (v − share·mean) / (1 − share); the mean is over images
and training times. It is stored in each checkpoint, because sampling has no access to the data.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pathline.compatibility import push_share
from pathline.config.pick import bind
from pathline.config.run import PLACES, Run
from pathline.flow import paths
from pathline.flow.guidance import Push
from pathline.runs.dataset import Dataset, by_bucket
from pathline.tables import TABLES
from pathline.training import checkpoint

MAX_IMAGES = 10_000  # their mean is exact to a hundredth of their spread
BATCH = 64
PUSH = "push"  # file of a checkpoint with the mean velocity
PUSH_MEAN = "push/mean"  # the same in a file of exported weights


@torch.no_grad()
def measure_mean(run: Run, path: paths.Path, data: Dataset, device: torch.device) -> Tensor:
    """Mean velocity over the first MAX_IMAGES training images and the run's times, on the CPU.

    [C H W]; [C 1 1] where images have several sizes. With data.flip mirrored images count too.
    """
    rng = torch.Generator(device).manual_seed(run.seed)
    times = bind(TABLES["times"], run.times, PLACES["times"])
    sums, rates = [], []
    rows = data.train[:MAX_IMAGES]
    orientations = (False, True) if run.data.flip else (False,)
    for part in [p for rows in by_bucket(data, rows) for p in rows.split(BATCH)]:
        for mirrored in orientations:
            flips = torch.full((len(part),), mirrored) if mirrored else None
            x1 = data.x1(part, flips, device)
            t = times(x1, rng)
            # Where sizes differ only the mean of each channel can be averaged.
            x1 = x1.mean((2, 3), keepdim=True) if data.bucket is not None else x1
            sums.append(x1.cpu().double().sum(0))  # not every device has float64
            # The mean velocity is that of α′(t)·x1: noise has mean 0, and t is independent of x1.
            rates.append(paths.velocity(path, torch.zeros_like(t), torch.ones_like(t), t))
    mean = torch.stack(sums).sum(0) / (len(rows) * len(orientations))
    return (mean * torch.cat(rates).cpu().double().mean()).float()


def mean_velocity(run: Run, saved: Path | None) -> Push | None:
    """The mean velocity of a run with a contrastive term, from its checkpoint; None without."""
    if saved is None or not push_share(run):
        return None
    if saved.is_file():
        mean = load_file(saved).get(PUSH_MEAN)
        return None if mean is None else Push(push_share(run), mean)
    tensors = checkpoint.load(saved, only=(PUSH,)).tensors.get(PUSH)
    return Push(push_share(run), tensors["mean"]) if tensors else None


def mean_velocity_tensors(push: Push | None) -> dict[str, dict[str, Tensor]]:
    """The mean velocity as a checkpoint stores it, by file."""
    return {} if push is None else {PUSH: {"mean": push.mean}}
