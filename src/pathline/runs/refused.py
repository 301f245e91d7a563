"""What settings alone show can't be trained or drawn, refused before data is read."""

import torch

from pathline.assemble import TABLES, bound, criterion, sampler
from pathline.config.pick import settled
from pathline.config.run import PLACES, Run, push_of
from pathline.compatibility import (
    refuse_growing_push,
    refuse_half_weights,
    refuse_one_time,
    refuse_sharing,
    refuse_solver,
    refuse_undropped,
    refuse_unpushed,
    refuse_unseen,
)


def refuse_settings(run: Run) -> None:
    """Raises ValueError for parts that can't go together, whatever the data."""
    path = bound(run, "path")()
    objective, draws = bound(run, "objective")(path), sampler(run.sample, path)
    criterion(run)
    refuse_growing_push(run)
    refuse_half_weights(run)
    bound(run, "times")(torch.zeros(1, 1), torch.Generator())
    refuse_unseen(run, seen=run.vision.name != "none")
    refuse_one_time(objective, run.backbone)
    refuse_solver(objective, heads=draws.heads, jumps=draws.jumps)
    if draws.share is not None and run.backbone.name != "ddt":
        refuse_sharing()
    backbone = settled(TABLES["backbone"], run.backbone, PLACES["backbone"])
    if draws.skips and backbone.get("route") != "sprint":
        refuse_undropped()
    if draws.pushes and not push_of(run):
        refuse_unpushed()
