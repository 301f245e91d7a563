"""What a contrastive loss did to a run's velocities, measured, so that guidance can take it back.

With independent negatives the term learns (v − share·mean) / (1 − share); the mean is over
pictures and training times. It lies in every checkpoint, for who draws has no data.
"""

from pathlib import Path

import torch
from torch import Tensor

from pathline.assemble import Parts
from pathline.compatibility import push_share
from pathline.config.pick import bind
from pathline.config.run import PLACES, Run
from pathline.flow.guidance import Push
from pathline.flow.paths import Path as Along
from pathline.flow.paths import velocity
from pathline.runs.dataset import Data
from pathline.runs.feed import by_bucket
from pathline.tables import TABLES
from pathline.training import checkpoint
from pathline.training.distributed import first_says

GROUP, NAME = "push", "mean"  # file of a checkpoint, tensor in it
MOST = 10_000  # pictures: the mean is known to a hundredth of their spread
AT_ONCE = 64


def known(
    run: Run, parts: Parts, data: Data, device: torch.device, saved: Path | None
) -> Push | None:
    """The push of a run that trains: what its checkpoint says, or else measured. Collective."""
    if not push_share(run):
        return None
    held = read(run, saved) if saved else None
    return held or Push(
        push_share(run), first_says(lambda: measured(run, parts.path, data, device))
    )


def read(run: Run, saved: Path) -> Push | None:
    """The push as a checkpoint of the run has it."""
    if not push_share(run):
        return None
    found = checkpoint.load(saved, only=(GROUP,)).tensors.get(GROUP)
    return Push(push_share(run), found[NAME]) if found else None


def kept(push: Push | None) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint keeps of it, by file."""
    return {} if push is None else {GROUP: {NAME: push.mean}}


@torch.no_grad()
def measured(run: Run, path: Along, data: Data, device: torch.device) -> Tensor:
    """Mean velocity over the first MOST training pictures and the run's times, on the CPU.

    By place, or by channel where pictures are of several sizes; mirrored ones count too.
    """
    rng = torch.Generator(device).manual_seed(run.seed)
    times = bind(TABLES["times"], run.times, PLACES["times"])
    sums, rates = [], []
    rows = data.train[:MOST]
    ways = (False, True) if run.data.flip else (False,)
    for part in [p for rows in by_bucket(data, rows) for p in rows.split(AT_ONCE)]:
        for way in ways:
            x1 = data.x1(part, torch.full((len(part),), way) if way else None, device)
            t = times(x1, rng)
            x1 = x1.mean((2, 3), keepdim=True) if data.bucket is not None else x1
            sums.append(x1.cpu().double().sum(0))  # not every device has float64
            rates.append(velocity(path, torch.zeros_like(t), torch.ones_like(t), t))
    mean = torch.stack(sums).sum(0) / (len(rows) * len(ways))
    return (mean * torch.cat(rates).cpu().double().mean()).float()
