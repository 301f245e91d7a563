"""Parts that can't work together, refused by name before anything is trained."""

from torch import nn

from pathline.backbones import BACKBONES
from pathline.config.pick import listing, options_of
from pathline.config.run import Run
from pathline.types import Codec, Facts, Objective

ONE_SIZE = ("dit", "ddt")  # backbones whose positions are a table of one size


def refuse_narrow(objective: Objective, backbone: nn.Module, channels: int) -> None:
    """A velocity holds a whole patch of noise, which a narrower network can't carry through."""
    shape = getattr(backbone, "shape", None)
    if shape is None or objective.prediction == "x1":
        return
    patch = shape.patch**2 * channels
    narrowest = min(shape.width, shape.bottleneck or shape.width)
    if patch > narrowest:
        raise ValueError(
            f"A patch has {patch} numbers ({shape.patch}x{shape.patch}x{channels}) but the network "
            f"is {narrowest} wide at its narrowest: it can't pass on the noise that a velocity "
            "holds, and would ignore its prompts. Use objective.prediction=x1, a smaller "
            f"backbone.patch, or a width of at least {patch}."
        )


def refuse_one_time(objective: Objective, backbone: nn.Module) -> None:
    if objective.spans and not getattr(getattr(backbone, "shape", None), "takes_r", False):
        can = listing(name for name, row in BACKBONES.items() if "takes_r" in options_of(row))
        raise ValueError(
            "This objective learns average velocities, from a time to a later one, but the "
            f"backbone takes one time: set backbone.takes_r=true. Backbones that can: {can}."
        )


def refuse_sizes(run: Run, facts: Facts, codec: Codec, backbone: nn.Module) -> None:
    unit = codec.factor * getattr(getattr(backbone, "shape", None), "patch", 1)
    if odd := [size for size in facts.sizes if size[0] % unit or size[1] % unit]:
        raise ValueError(
            f"The data has pictures of {odd[0][0]}x{odd[0][1]}, but a patch of this backbone "
            f"stands for {unit} pixels: take a smaller backbone.patch, or make the cache anew "
            f"with data.buckets.multiple={unit}."
        )
    if facts.sizes and run.backbone.name in ONE_SIZE:
        raise ValueError(
            f"The data has pictures of {len(facts.sizes)} sizes, but backbone={run.backbone.name} "
            "takes one: use stream_dit or cross_dit, or make a cache of squares with "
            "data.buckets.max_ratio=1."
        )
