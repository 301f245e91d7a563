"""Every table of rows by the place in the settings where a row of it is picked."""

from collections.abc import Callable
from typing import Any

from pathline.backbones.encoder_sharing import SHARING
from pathline.backbones.table import BACKBONES
from pathline.codecs.table import CODECS
from pathline.data.sources.rows import SOURCES
from pathline.flow.adaptive import ADAPTIVE
from pathline.flow.couplings import COUPLINGS
from pathline.flow.guidance import GUIDANCE
from pathline.flow.paths import PATHS, Path
from pathline.flow.solvers import STEPS, Solver
from pathline.flow.times import DRAWS, GRIDS
from pathline.metrics.features import FEATURES
from pathline.objectives.table import OBJECTIVES
from pathline.objectives.terms import TERMS
from pathline.objectives.transition import step as transition
from pathline.text.table import TEXTS
from pathline.training.optim import OPTIMIZERS, SCHEDULES
from pathline.vision.table import VISION

PATH_WORDS = {
    "straight": "x_t = t·x1 + (1 − t)·x0.",
    "trig": "Sine and cosine of a quarter turn: the variance stays (GVP).",
    "vp": "The variance-preserving diffusion, turned to our time.",
}


def _path_row(name: str) -> Callable[[], Path]:
    """A path as a row without settings, with its line for the list."""

    def row() -> Path:
        return PATHS[name]

    row.__doc__ = PATH_WORDS[name]
    return row


TABLES: dict[str, dict[str, Any]] = {
    "data.source": SOURCES,
    "codec": CODECS,
    "text": TEXTS,
    "vision": VISION,
    "backbone": BACKBONES,
    "objective": OBJECTIVES,
    "terms": TERMS,
    "path": {name: _path_row(name) for name in PATHS},
    "times": DRAWS,
    "coupling": COUPLINGS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sample.solver": {**STEPS, **ADAPTIVE, "transition": Solver(transition, asks="transition")},
    "sample.grid": GRIDS,
    "sample.guidance": GUIDANCE,
    "sample.sharing": SHARING,
    "eval.feature": FEATURES,
}
