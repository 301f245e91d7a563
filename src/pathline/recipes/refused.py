"""What settings alone show can't be trained or drawn, refused before data is read."""

from pathline.assemble import TABLES, criterion, sampler
from pathline.config.pick import bind, settled
from pathline.config.run import PLACES, Run, picks_of, push_of
from pathline.refusals import (
    refuse_one_time,
    refuse_sharing,
    refuse_solver,
    refuse_undropped,
    refuse_unpushed,
    refuse_unseen,
)


def refuse_settings(run: Run) -> None:
    """Raises ValueError for parts that can't go together, whatever the data."""
    rows = {place: bind(TABLES[place], picks_of(run)[place], PLACES[place]) for place in ALONE}
    path = rows["path"]()
    objective, draws = rows["objective"](path), sampler(run.sample, path)
    criterion(run)
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


ALONE = ("path", "objective")  # rows that need no data
