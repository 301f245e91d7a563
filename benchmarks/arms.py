"""What the comparisons compare: a preset with some settings changed, by name."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from encoder import taught

from pathline.config.resolve import read
from pathline.config.run import Run

QUIET = (
    *("train.sample_every=0", "train.validate_every=0", "train.save_every=1000000"),
    *("train.probe_every=0", "train.precision=fp32", "train.log_every=100"),
)
MEAN = (  # as the preset digits-mean-flow has them
    *("backbone.takes_r=true", "backbone.time_scale=1"),
    *("terms={adaptive: {power: 0.5}}", "terms.mse=0"),  # else mse would stay beside it
)
ROUTE = ("backbone.route_before=1", "backbone.route_after=1")  # so that 3 blocks are enough
Changes = tuple[str, ...] | Callable[[Run], tuple[str, ...]]  # settings, or how to find them
EULER: Mapping[str, Sequence[str]] = MappingProxyType({"euler": ("sample.solver=euler",)})
JUMP: Mapping[str, Sequence[str]] = MappingProxyType({"jump": ("sample.solver=jump",)})


class Arm(NamedTuple):
    """A way to train, and the ways to draw from what was trained: settings by name."""

    changes: Changes = ()
    draws: Mapping[str, Sequence[str]] = EULER


def decoupled(run: Run) -> tuple[str, ...]:
    """The preset's backbone with its last block as decoder: as many blocks, tokens, flags."""
    options = {**run.backbone.options, "depth": run.backbone.options["depth"] - 1, "decoder": 1}
    return ("backbone=ddt", *(f"backbone.{k}={json.dumps(v)}" for k, v in options.items()))


def aligned(run: Run) -> tuple[str, ...]:
    """Alignment with an encoder that learned this data's classes, a token for each of the net's."""
    vision = ("vision=encoder", f"vision.path={taught(run)}", f"vision.size={run.data.size}")
    return (*vision, "terms.alignment=0.5", "backbone.feature_layer=2")


def settings(preset: str, arm: str, further: Sequence[str]) -> Run:
    """The run of an arm. further: settings that all arms share, which may undo the arm's."""
    changes = ARMS[arm].changes
    if not isinstance(changes, tuple):
        changes = changes(read(preset, (), [*QUIET, *further]).run)
    return read(preset, (), [*QUIET, *changes, *further]).run


ARMS = {
    "flow": Arm(draws={**EULER, "unipc2": ("sample.solver=unipc2",)}),
    "ot": Arm(("coupling=within_class",)),
    "contrastive": Arm(("terms.contrastive=0.05",)),
    "dispersive": Arm(("terms.dispersive=0.25", "backbone.feature_layer=2")),
    "alignment": Arm(aligned),
    "tread": Arm(("backbone.route=tread", *ROUTE)),
    "sprint": Arm(("backbone.route=sprint", *ROUTE)),
    "ddt": Arm(
        decoupled,
        {
            **EULER,
            "encoder in 1 of 2 steps": ("sample.sharing=every", "sample.sharing.steps=2"),
            "encoder in 1 of 3 steps": ("sample.sharing=every", "sample.sharing.steps=3"),
        },
    ),
    "mean_flow": Arm(("objective=mean_flow", "sample.solver=jump", *MEAN), JUMP),
    "improved_mean_flow": Arm(("objective=improved_mean_flow", "sample.solver=jump", *MEAN), JUMP),
    "alpha_flow": Arm(("objective=alpha_flow", "sample.solver=jump", *MEAN), JUMP),
    "transition": Arm(
        ("objective=transition", "sample.solver=transition"),
        {"midpoint head of 4 steps": ("sample.solver=transition",)},
    ),
}
