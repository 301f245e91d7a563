"""Whether parts are compatible: one table of needs, checked three times.

A row of a table names its needs in its record. They are checked on the settings before data is
read, on the parts after assembling, and before sampling. The first two skip what is not known yet;
before sampling everything is known.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

from pathline.backbones.network import Network
from pathline.backbones.table import BACKBONES
from pathline.config.pick import Pick, Table, options_of, settled
from pathline.config.run import PLACES, Run, Sample, picks_of, terms_of
from pathline.hints import listing
from pathline.objectives.terms import TERMS, term_of
from pathline.text.table import reads_of
from pathline.types import Codec, Facts, Objective

Tables = Mapping[str, Table]  # a table for each place of config.run.PLACES


class Subject(NamedTuple):
    """What is known of a run. None: not known yet, so needs that depend on it are undecided."""

    answers: str | None = None  # what the objective's field gives: velocity, average, transition
    takes_r: bool | None = None  # the backbone takes a later time
    has_encoder: bool | None = None  # the backbone has an encoder whose output steps can share
    has_bypass: bool | None = None  # the network works without the blocks that tokens may miss
    has_features: bool | None = None  # the data has features of a frozen vision encoder
    reads_features: bool | None = None  # a loss term reads them
    has_mean_velocity: bool | None = None  # a mean velocity of a contrastive term is stored
    has_fixed_steps: bool | None = None  # the solver does not choose its steps
    has_float32_weights: bool | None = None  # a forward pass runs on them
    is_unconditional: bool | None = None  # training has no conditions
    has_weak_network: bool | None = None  # a second network for guidance


class Need(NamedTuple):
    """A test, and the error where it fails; {row} is the row that needs it, as setting=name."""

    holds: Callable[[Subject], bool | None]  # None: not known
    sentence: str


def _is(answers: str | None, *accepted: str) -> bool | None:
    return None if answers is None else answers in accepted


WITH_R = listing(name for name, row in BACKBONES.items() if "takes_r" in options_of(row))
NEEDS = {
    "velocity": Need(
        lambda of: _is(of.answers, "velocity", "average"),
        "{row} is wrong because objective=transition is sampled by whole transitions only. Set "
        "sample.solver=transition (with head_steps=1 and head_solver=euler it is equivalent to "
        "plain Euler sampling).",
    ),
    "average": Need(
        lambda of: _is(of.answers, "average"),
        "{row} is wrong because it needs an objective that learns average velocities, such as "
        "objective=mean_flow. Set sample.solver=euler, unipc2 or another solver.",
    ),
    "transition": Need(
        lambda of: _is(of.answers, "transition"),
        "{row} is wrong because it samples from the head of objective=transition, which this run "
        "does not have. Train with objective=transition, or set sample.solver=euler, unipc2 or "
        "another solver.",
    ),
    "later_time": Need(
        lambda of: of.takes_r,
        "{row} is wrong because it learns average velocities from t to a later r, and the backbone "
        f"takes no r. Set backbone.takes_r=true. Backbones that have it: {WITH_R}.",
    ),
    "encoder": Need(
        lambda of: of.has_encoder,
        "{row} is wrong because only backbone=ddt has an encoder whose output steps can share. Set "
        "sample.sharing=none.",
    ),
    "fixed_steps": Need(
        lambda of: of.has_fixed_steps,
        "{row} is wrong because the solver chooses its steps, so there are no fixed ones to share "
        "between. Set sample.solver=euler or unipc2, or sample.sharing=none.",
    ),
    "bypass": Need(
        lambda of: of.has_bypass,
        "{row} is wrong because it needs a network trained with backbone.route=sprint. Train with "
        "backbone.route=sprint, or set sample.guidance=interval.",
    ),
    "mean_velocity": Need(
        lambda of: of.has_mean_velocity,
        "{row} is wrong because it corrects for the loss term contrastive by a mean velocity that "
        "is stored in the checkpoint, and this run has none. Train with terms.contrastive=0.05 and "
        "terms.mse=1 (apart=false), or set sample.guidance=interval. A run that has the term gets "
        "the mean by `pathline train --resume RUN`.",
    ),
    "features": Need(
        lambda of: of.has_features,
        "{row} is wrong because it needs features of a frozen vision encoder, and this run has "
        "none. Set vision=encoder vision.path=FOLDER, such as facebook/dinov2-base (with "
        "data.cache: one made with it), or leave the term out.",
    ),
    "feature_term": Need(
        lambda of: of.reads_features,
        "{row} has no effect because no loss term reads its features. Set terms.alignment=0.5 or "
        "vision=none.",
    ),
    "float32_weights": Need(
        lambda of: of.has_float32_weights,
        "{row} with derivative=difference is wrong because a difference of times needs float32 "
        "weights, and train.strategy=fsdp2 gathers them in half precision. Set "
        "train.precision=fp32, train.strategy=ddp or objective.derivative=exact.",
    ),
    "no_conditions": Need(
        lambda of: of.is_unconditional,
        "{row} pairs noise and images across conditions, which biases conditional samples "
        "(docs/methods/couplings.md). Set coupling=within_class or independent.",
    ),
    "weak_network": Need(
        lambda of: of.has_weak_network,
        "{row} is wrong because it needs a weaker network. Sample with `pathline generate RUN "
        "--weak RUN guidance=autoguidance`; train with another guidance.",
    ),
}


def unmet(needs: Iterable[tuple[str, str]], of: Subject) -> list[str]:
    """A sentence for each of the (row, need) that is known to be unmet."""
    pairs = [(row, NEEDS[need]) for row, need in needs]
    return [need.sentence.format(row=row) for row, need in pairs if need.holds(of) is False]


def require(needs: Iterable[tuple[str, str]], of: Subject) -> None:
    """Raises ValueError with a sentence for each need that is known to be unmet."""
    if sentences := unmet(needs, of):
        raise ValueError("\n".join(sentences))


def require_decided(needs: Iterable[tuple[str, str]], of: Subject) -> None:
    """As `require`, where all is known: LookupError for a need that a field of `of` leaves open."""
    needs = list(needs)
    require(needs, of)
    if rest := undecided(needs, of):
        raise LookupError(
            f"{rest[0][0]} needs {rest[0][1]!r}, which is undecided. Fill the field of "
            "compatibility.Subject that decides it in generate._subject."
        )


def undecided(needs: Iterable[tuple[str, str]], of: Subject) -> list[tuple[str, str]]:
    """The (row, need) that depend on what is not known yet."""
    return [(row, need) for row, need in needs if NEEDS[need].holds(of) is None]


def needs_of(
    picks: Mapping[str, Pick], tables: Tables, kind: str = "needs"
) -> list[tuple[str, str]]:
    """(row, need) for every need in the records of these rows, by place. kind: needs or prefers."""
    return [
        (place if place.startswith("terms.") else f"{place}={pick.name}", need)
        for place, pick in picks.items()
        for need in getattr(_row_of(place, pick, tables), kind, ())
    ]


def _row_of(place: str, pick: Pick, tables: Tables) -> Any:
    """The picked row; None where it is left to the data (auto)."""
    return tables["terms" if place.startswith("terms.") else place].get(pick.name)


def training_needs(run: Run, objective: Objective, tables: Tables) -> list[tuple[str, str]]:
    """(row, need) of all rows that a training uses."""
    used = {f"terms.{name}" for name in terms_of(run)}
    unused = {f"terms.{name}" for name in run.terms} - used
    rows = {place: pick for place, pick in picks_of(run).items() if place not in unused}
    rows = {place: pick for place, pick in rows.items() if not place.startswith("sample.")}
    of_objective = [(f"objective={run.objective.name}", need) for need in objective.needs]
    return of_objective + needs_of(rows, tables)


def sampling_needs(sample: Sample, asks: str, tables: Tables) -> list[tuple[str, str]]:
    """(row, need) of the solver (`asks`: of the objective), of guidance and encoder sharing."""
    solver = (f"sample.solver={sample.solver.name}", asks)
    rows = {"sample.guidance": sample.guidance, "sample.sharing": sample.sharing}
    return [solver, *needs_of(rows, tables)]


def subject_of(run: Run, objective: Objective, tables: Tables) -> Subject:
    """What is known of a run from its settings alone."""
    # Records of rows name what they give to others.
    rows = [_row_of(place, pick, tables) for place, pick in picks_of(run).items()]
    offered = {name for row in rows for name in getattr(row, "gives", ())}
    backbone = settled(BACKBONES, run.backbone, PLACES["backbone"])
    # fsdp2 gathers weights in the precision of the forward pass.
    half = run.train.strategy == "fsdp2" and run.train.precision != "fp32"
    reads = reads_of(run.text.name)
    return Subject(
        answers=objective.answers,
        takes_r=bool(backbone.get("takes_r")),
        has_encoder="encoder" in offered,
        has_bypass=backbone.get("route") == "sprint",
        has_features="features" in offered,
        reads_features=bool(feature_term(run)),
        has_mean_velocity=push_share(run) > 0,
        has_float32_weights=not half,
        is_unconditional=None if reads is None else reads == "nothing",
    )


def feature_term(run: Run) -> dict[str, Any]:
    """Settings of the loss term that reads features of a vision encoder; {} without such a term."""
    for name, (_, pick) in terms_of(run).items():
        if "features" in term_of(TERMS[name]).reads:
            return settled(TERMS, pick, PLACES["terms"])
    return {}


def push_share(run: Run) -> float:
    """Weight of a contrastive term over that of its bound; 0 where guidance has no bias to correct.

    With negatives of other classes there is a mean for each class, which guidance does not correct.
    """
    terms = terms_of(run)
    for name, (weight, pick) in terms.items():
        bound = term_of(TERMS[name]).bounded_by
        if bound in terms and not settled(TERMS, pick, PLACES["terms"]).get("apart"):
            return weight / terms[bound][0]
    return 0.0


def named(setting: str, row: Callable) -> Callable:
    """The row, with errors that begin with its setting."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return row(*arguments, **options)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from error

    return call


def require_rows(objective: Objective, rows: int) -> None:
    """Raises ValueError for a micro-batch too small for a part of the objective to be trained."""
    if rows < objective.least_rows:
        raise ValueError(
            f"objective.instant is wrong because its share of a micro-batch of {rows} rounds to 0 "
            f"samples, so r = t is never trained. Use a micro-batch of {objective.least_rows} or "
            "more (a larger train.batch, less train.accumulate, fewer processes) or a larger "
            "objective.instant."
        )


def require_width(objective: Objective, backbone: nn.Module, channels: int) -> None:
    """Raises ValueError for a velocity-predicting network narrower than its patches.

    A velocity holds the noise of the whole patch, which a narrower network cannot represent.
    """
    shape = getattr(backbone, "shape", None)
    if shape is None or objective.prediction == "x1":
        return
    values = shape.patch**2 * channels
    # A bottleneck in the patch embedding is what the noise has to pass.
    narrowest = min(shape.width, shape.bottleneck or shape.width)
    if values > narrowest:
        raise ValueError(
            f"backbone.patch={shape.patch} is wrong because each patch has {values} values "
            f"({shape.patch}x{shape.patch}x{channels}), more than the smallest hidden width "
            f"({narrowest}): a velocity-predicting network this narrow cannot represent the noise "
            "and will ignore the conditioning. Set objective.prediction=x1, a smaller "
            f"backbone.patch, or a width of at least {values}."
        )


def require_sizes(facts: Facts, codec: Codec, network: Network, objective: Objective) -> None:
    """Raises ValueError for image sizes of the data that the backbone does not support."""
    # Sides must be whole numbers of patches, or of groups of patches for a head.
    group = (objective.head or {}).get("group") or 1  # tokens that a head samples together
    unit = codec.factor * getattr(getattr(network.backbone, "shape", None), "patch", 1) * group
    if odd := [size for size in facts.sizes if size[0] % unit or size[1] % unit]:
        raise ValueError(
            f"backbone.patch is wrong because the data has images of {odd[0][0]}x{odd[0][1]}, no "
            f"multiple of the {unit} pixels of {'a group of patches' if group > 1 else 'a patch'}. "
            "Set a smaller "
            f"backbone.patch{' or objective.head_group' if group > 1 else ''}, or make the cache "
            f"again with data.buckets.multiple={unit}."
        )
    if facts.sizes and not network.has("any_size"):
        raise ValueError(
            f"backbone is wrong because the data has images of {len(facts.sizes)} sizes, and its "
            "position embeddings are of one. Set backbone=stream_dit or cross_dit, or make a cache "
            "of squares with data.buckets.max_ratio=1."
        )
