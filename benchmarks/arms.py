"""What the comparisons compare: a preset with some settings changed, by name."""

import json
from collections.abc import Callable

from pathline.config.read import read
from pathline.config.run import Run

QUIET = (
    *("train.sample_every=0", "train.validate_every=0", "train.save_every=1000000"),
    *("train.probe_every=0", "train.precision=fp32", "train.log_every=100"),
)
MEAN = (  # as the preset digits-mean-flow has them
    *("backbone.takes_r=true", "backbone.time_scale=1"),
    *("terms={adaptive: {power: 0.5}}", "terms.mse=0"),  # else mse would stay beside it
)
Changes = tuple[str, ...] | Callable[[Run], tuple[str, ...]]  # settings, or how to find them


def decoupled(run: Run) -> tuple[str, ...]:
    """The preset's backbone with its last block as decoder: as many blocks, tokens, flags."""
    options = {**run.backbone.options, "depth": run.backbone.options["depth"] - 1, "decoder": 1}
    return ("backbone=ddt", *(f"backbone.{k}={json.dumps(v)}" for k, v in options.items()))


def settings(preset: str, arm: str, seed: int, updates: int, further: list[str]) -> Run:
    """The run of an arm. further: settings that all arms share, which may undo the arm's."""
    changes, _ = ARMS[arm]
    if not isinstance(changes, tuple):
        changes = changes(read(preset, (), [*QUIET, *further]).run)
    own = [*changes, f"train.updates={updates}", f"seed={seed}"]
    return read(preset, (), [*QUIET, *own, *further]).run


ARMS: dict[str, tuple[Changes, tuple[str, ...]]] = {  # name -> changes, solvers it is drawn with
    "flow": ((), ("euler", "unipc2")),
    "ot": (("coupling=within_class",), ("euler",)),
    "contrastive": (("terms.contrastive=0.05",), ("euler",)),
    "dispersive": (("terms.dispersive=0.25", "backbone.look=2"), ("euler",)),
    "ddt": (decoupled, ("euler",)),
    "mean_flow": (("objective=mean_flow", *MEAN), ("jump",)),
    "improved_mean_flow": (("objective=improved_mean_flow", *MEAN), ("jump",)),
    "alpha_flow": (("objective=alpha_flow", *MEAN), ("jump",)),
    "transition": (("objective=transition", "sample.solver=transition"), ("transition",)),
}
