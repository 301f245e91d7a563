"""Loss terms read a computed Point and Output, never the network; one number a sample."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pathline.types import Output, Point

Term = Callable[[Point, Output], Tensor]


def mse(point: Point, out: Output) -> Float[Tensor, " b"]:
    """Mean squared velocity error."""
    return (out.value - point.v).square().flatten(1).mean(1)


def l1(point: Point, out: Output) -> Float[Tensor, " b"]:
    """Mean absolute velocity error."""
    return (out.value - point.v).abs().flatten(1).mean(1)


def huber(point: Point, out: Output, *, delta: float = 1.0) -> Float[Tensor, " b"]:
    """Quadratic below delta, linear above."""
    error = F.huber_loss(out.value, point.v, reduction="none", delta=delta)
    return error.flatten(1).mean(1)


def cosine(point: Point, out: Output) -> Float[Tensor, " b"]:
    """One minus the cosine over channels, averaged over places (LightningDiT, arXiv 2501.01423)."""
    return (1 - F.cosine_similarity(out.value, point.v, dim=1)).flatten(1).mean(1)


def compose(terms: Mapping[str, tuple[float, Term]]) -> Callable:
    """Weighted terms as one criterion: (point, out) -> (scalar, {name: unweighted mean})."""
    if not terms or all(weight == 0 for weight, _ in terms.values()):
        raise ValueError(
            "The loss has no term of non-zero weight; give at least one, e.g. terms.mse=1."
        )

    def criterion(point: Point, out: Output) -> tuple[Tensor, dict[str, Tensor]]:
        values = {name: term(point, out).mean() for name, (_, term) in terms.items()}
        total = torch.stack([values[name] * weight for name, (weight, _) in terms.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}

    return criterion


TERMS = {"mse": mse, "l1": l1, "huber": huber, "cosine": cosine}
