"""Loss terms: functions of a computed Point and Output, not of the network; one number a sample."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pathline.objectives.alignment import alignment
from pathline.ranges import PositiveFloat, Share
from pathline.types import Output, Point

Loss = Callable[..., Tensor | None]  # (point, out); None: there is nothing to read


class Term(NamedTuple):
    """A row of TERMS that is more than a distance between velocities."""

    loss: Loss
    reads: frozenset[str] = frozenset({"value"})  # of the network's output, or the batch's features
    bounded_by: str = ""  # a term of greater weight, without which the loss has no minimum
    needs: tuple[str, ...] = ()  # names in compatibility.NEEDS


def term_of(row: Loss | Term) -> Term:
    """The record of a row of TERMS."""
    return row if isinstance(row, Term) else Term(row)


def mse(point: Point, out: Output) -> Float[Tensor, " b"]:
    """Mean squared velocity error."""
    return (out.value - point.v).square().flatten(1).mean(1)


def l1(point: Point, out: Output) -> Float[Tensor, " b"]:
    """Mean absolute velocity error."""
    return (out.value - point.v).abs().flatten(1).mean(1)


def huber(point: Point, out: Output, *, delta: PositiveFloat = 1.0) -> Float[Tensor, " b"]:
    """Quadratic below delta, linear above."""
    error = F.huber_loss(out.value, point.v, reduction="none", delta=delta)
    return error.flatten(1).mean(1)


def adaptive(
    point: Point, out: Output, *, power: Share = 1.0, floor: PositiveFloat = 0.01
) -> Float[Tensor, " b"]:
    """Squared error divided by its size, so that no sample outweighs the others (for mean flows).

    Summed over the image and divided by (itself + floor)^power, without gradient: power 0 is a
    plain sum, ½ about a distance, 1 keeps only directions (MeanFlow, arXiv 2505.13447).
    """
    error = (out.value - point.v).square().flatten(1).sum(1)
    return error / (error.detach() + floor) ** power


def cosine(point: Point, out: Output) -> Float[Tensor, " b"]:
    """One minus the cosine over channels, averaged over places (LightningDiT, arXiv 2501.01423)."""
    return (1 - F.cosine_similarity(out.value, point.v, dim=1)).flatten(1).mean(1)


def contrastive(point: Point, out: Output, *, apart: bool = False) -> Float[Tensor, " b"]:
    """Minus the squared distance to another sample's velocity (ΔFM, arXiv 2506.05350).

    Needs mse of a greater weight. The other sample is the next of the batch on this device; apart:
    the next of another class, if there is one. A batch of one has none.
    """
    other, exists = _next_apart(_labels(point)) if apart else _next(out.value)
    away = (out.value - point.v[other]).square().flatten(1).mean(1)
    return -away * exists


def dispersive(
    point: Point,  # noqa: ARG001
    out: Output,
    *,
    distance: Literal["l2", "cosine"] = "l2",
    temperature: PositiveFloat = 0.5,
) -> Float[Tensor, " b"]:
    """Spread the hidden states of different samples (arXiv 2506.09027).

    log mean exp(−distance / temperature) over all pairs of the batch on this device, each with
    itself too: 0 where all are alike, at least −log of the batch. The same number for every sample.
    """
    hidden = _inner(out).flatten(1).float()
    with torch.autocast(hidden.device.type, enabled=False):  # bf16 cannot resolve small distances
        distances = _distances(hidden, distance)
    spread = (-distances / temperature).flatten().logsumexp(0) - 2 * math.log(len(hidden))
    return spread.expand(len(hidden))


def _distances(hidden: Tensor, kind: str) -> Float[Tensor, "b b"]:
    """Between all pairs of rows: mean squared difference, or one minus the cosine."""
    rows = F.normalize(hidden, dim=1) if kind == "cosine" else hidden / hidden.shape[1] ** 0.5
    product = rows @ rows.T
    if kind == "cosine":
        return 1 - product
    square = product.diagonal()
    return (square[:, None] + square[None, :] - 2 * product).clamp(min=0)


def _inner(out: Output) -> Tensor:
    """Tokens of the block that the backbone's `look` selects, or of the last one."""
    hidden = out.hidden if out.inner is None else out.inner
    if hidden is None:
        raise ValueError(
            "terms.dispersive is wrong because it reads hidden states and this backbone returns "
            "none. Set backbone=dit, or leave the term out."
        )
    return hidden


def _labels(point: Point) -> Tensor:
    if point.labels is None:
        raise ValueError(
            "terms.contrastive.apart=true is wrong because this run has no classes. Set "
            "text=labels or apart=false."
        )
    return point.labels


def _next(x: Tensor) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """The next row of each, cyclically; and 1 where that is another row."""
    rows = torch.arange(len(x), device=x.device)
    return rows.roll(-1), torch.full((len(x),), float(len(x) > 1), device=x.device)


def _next_apart(labels: Int[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """The next row of another label for each, cyclically; and 1 where there is one."""
    rows = torch.arange(len(labels), device=labels.device)
    order = (rows[:, None] + rows) % len(labels)  # b b: itself, the next, the one after …
    differs = labels[order] != labels[:, None]
    nearest = differs.int().argmax(1, keepdim=True)  # of the first that differs
    return order.gather(1, nearest)[:, 0], differs.any(1).float()


def compose(terms: Mapping[str, tuple[float, Loss | Term]]) -> Callable:
    """Weighted terms as one criterion: (point, out) -> (scalar, {name: unweighted mean}).

    Raises ValueError for weights that leave no loss, or one without a minimum.
    """
    weights = {name: weight for name, (weight, _) in terms.items()}
    records = {name: term_of(row) for name, (_, row) in terms.items()}
    if not any(weights.values()):
        raise ValueError(
            "terms is wrong because the loss has no term of non-zero weight. Set e.g. terms.mse=1."
        )
    # Combinations that have no minimum, or train no velocity.
    _refuse_unbounded(weights, records)
    _refuse_no_velocity(weights, records)

    def criterion(point: Point, out: Output) -> tuple[Tensor, dict[str, Tensor]]:
        # A term without anything to read returns None and is left out.
        losses = {name: term.loss(point, out) for name, term in records.items()}
        values = {name: value.mean() for name, value in losses.items() if value is not None}
        total = torch.stack([value * weights[name] for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}

    return criterion


def _refuse_unbounded(weights: Mapping[str, float], records: Mapping[str, Term]) -> None:
    # Checked before training: a negative term that wins would send the loss to −∞ for hours.
    for name, weight in weights.items():
        bound = records[name].bounded_by
        if bound and weight and weight >= weights.get(bound, 0.0):
            raise ValueError(
                f"terms.{name}={weight:g} is wrong because the loss is unbounded below unless "
                f"terms.{bound} is larger, and that is {weights.get(bound, 0.0):g}. Set e.g. "
                f"terms.{bound}=1 terms.{name}.weight=0.05 (without a weight it is 1)."
            )


def _refuse_no_velocity(weights: Mapping[str, float], records: Mapping[str, Term]) -> None:
    used = [name for name, weight in weights.items() if weight]
    if not any("value" in records[name].reads for name in used):
        raise ValueError(
            f"terms.{' and terms.'.join(sorted(used))} is not enough because no velocity is "
            "trained by it. Add another term, e.g. terms.mse=1."
        )


TERMS: dict[str, Loss | Term] = {
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "adaptive": adaptive,
    "cosine": cosine,
    "contrastive": Term(contrastive, bounded_by="mse"),
    "dispersive": Term(dispersive, reads=frozenset({"hidden"})),
    "alignment": Term(alignment, reads=frozenset({"projected", "features"}), needs=("features",)),
}
