"""Parts that can't work together, refused by name before anything is trained."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pathline.backbones.table import BACKBONES
from pathline.config.pick import Pick, listing, options_of, settled
from pathline.config.run import PLACES, Run, terms_of
from pathline.types import Codec, Facts, Objective

ONE_SIZE = ("dit", "ddt")  # backbones whose positions are a table of one size


def named(setting: str, row: Callable) -> Callable:
    """The row; what it refuses then begins with the setting, or the part, that is meant."""

    def call(*given: Any, **further: Any) -> Any:
        try:
            return row(*given, **further)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from error

    return call


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


def refuse_one_time(objective: Objective, backbone: Pick) -> None:
    if objective.spans and not settled(BACKBONES, backbone, PLACES["backbone"]).get("takes_r"):
        can = listing(name for name, row in BACKBONES.items() if "takes_r" in options_of(row))
        raise ValueError(
            "This objective learns average velocities, from a time to a later one, but the "
            f"backbone takes one time: set backbone.takes_r=true. Backbones that can: {can}."
        )


def refuse_solver(objective: Objective, *, heads: bool, jumps: bool) -> None:
    """A solver asks for what the objective learns; heads, jumps: what it asks for."""
    if heads != (objective.head is not None):
        raise ValueError(
            "The solver step 'transition' needs the head of an objective that draws transitions: "
            "train with objective=transition, or take euler, unipc2 or another step."
            if heads
            else "This objective learns to draw whole transitions, which the solver step "
            "'transition' asks for and the run's does not: take sample.solver=transition (with "
            "head_steps=1 and head_solver=euler it goes the mean way, as euler would)."
        )
    if jumps and not objective.spans:
        raise ValueError(
            "The solver step 'jump' needs an objective that learns average velocities; this one "
            "learns velocities at one time: take euler, unipc2 or another step."
        )


def refuse_own_steps(solver: str) -> None:
    raise ValueError(
        f"{solver} chooses its own steps; to share a ddt's encoder among steps, take a solver of "
        "fixed ones, such as euler or unipc2."
    )


def refuse_sharing() -> None:
    raise ValueError(
        "Only backbone=ddt has an encoder whose answer steps can share: take sample.sharing=none."
    )


def refuse_unpushed() -> None:
    raise ValueError(
        "Guidance 'contrastive' takes back what the loss term contrastive did, and this run has no "
        "mean velocity to do it by: train with terms.contrastive=0.05 beside mse, without apart, "
        "or take sample.guidance=interval. Where a run with that term is older than its mean, "
        "pathline train --resume RUN makes one."
    )


def refuse_growing_push(run: Run) -> None:
    """A push that stays while the error shrinks pulls further off, by 1 / alpha."""
    if run.objective.name == "alpha_flow" and "contrastive" in terms_of(run):
        raise ValueError(
            "terms.contrastive pushes by its weight, but α-Flow's error shrinks with alpha: the "
            "push would grow to weight / alpha, and no guidance could take it back. Leave the "
            "term out, or take objective=mean_flow or improved_mean_flow."
        )


def refuse_half_weights(run: Run) -> None:
    """A difference of times is taken in float32, where fsdp2 gathers weights of half precision."""
    half = run.train.strategy == "fsdp2" and run.train.precision != "fp32"
    if half and run.objective.options.get("derivative") == "difference":
        raise ValueError(
            "objective.derivative=difference wants float32 weights, and fsdp2 hands them over in "
            f"bf16 under train.precision={run.train.precision}: take train.precision=fp32, "
            "train.strategy=ddp, or derivative=exact."
        )


def refuse_undropped() -> None:
    raise ValueError(
        "Guidance 'path_drop' leads away from the network without its route, and this run's has "
        "none that it can do without: train with backbone.route=sprint, or take guidance=interval."
    )


def refuse_unseen(run: Run, *, seen: bool) -> None:
    """Alignment needs features, and features are there for it alone. seen: they are there."""
    if term := terms_of(run).get("alignment"):
        if int(term[1].options.get("until", 0)) < 0:
            raise ValueError("terms.alignment.until is a number of updates; 0 for all of them.")
        if seen:
            return
        raise ValueError(
            "terms.alignment compares with what a frozen encoder says of the pictures, and this "
            f"run has vision={run.vision.name}: take vision=encoder vision.path=FOLDER, such as "
            "facebook/dinov2-base (with data.cache: one made so), or leave the term out."
        )
    if run.vision.name != "none":
        raise ValueError(
            f"vision={run.vision.name} is read by terms.alignment alone, which this run has not: "
            "give it a weight, e.g. terms.alignment=0.5, or take vision=none."
        )


def refuse_sizes(
    run: Run, facts: Facts, codec: Codec, backbone: nn.Module, objective: Objective
) -> None:
    group = (objective.head or {}).get("group") or 1  # tokens that a head draws as one
    unit = codec.factor * getattr(getattr(backbone, "shape", None), "patch", 1) * group
    if odd := [size for size in facts.sizes if size[0] % unit or size[1] % unit]:
        raise ValueError(
            f"The data has pictures of {odd[0][0]}x{odd[0][1]}, but "
            f"{'a group of patches' if group > 1 else 'a patch'} of this backbone stands for "
            f"{unit} pixels: take a smaller backbone.patch"
            f"{' or objective.head_group' if group > 1 else ''}, or make the cache anew with "
            f"data.buckets.multiple={unit}."
        )
    if facts.sizes and run.backbone.name in ONE_SIZE:
        raise ValueError(
            f"The data has pictures of {len(facts.sizes)} sizes, but backbone={run.backbone.name} "
            "takes one: use stream_dit or cross_dit, or make a cache of squares with "
            "data.buckets.max_ratio=1."
        )
