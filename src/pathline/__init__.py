"""pathline: flows that carry noise to pictures, trained, sped up, tuned, measured and served.

    flow = pathline.load("runs/digits-1")
    images = flow.generate(3, n=4)  # a list of PIL images

`train`, `load` and `evaluate` are imported when they are first used, for they import torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathline.api.evaluate import Scores, evaluate
    from pathline.api.flow import Flow, Images, Preview, load
    from pathline.api.train import train
    from pathline.errors import PathlineError

__version__ = "0.1.0"
__all__ = [
    "Flow",
    "Images",
    "PathlineError",
    "Preview",
    "Scores",
    "__version__",
    "evaluate",
    "load",
    "train",
]

_MODULES = {
    **dict.fromkeys(("Scores", "evaluate"), "pathline.api.evaluate"),
    **dict.fromkeys(("Flow", "Images", "Preview", "load"), "pathline.api.flow"),
    "PathlineError": "pathline.errors",
    "train": "pathline.api.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pathline' has no attribute {name!r}")
    # As the command does, for torch reads it when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # this function is not called for it again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
