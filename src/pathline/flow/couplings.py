"""Couplings: which noise is paired with which image. Rows permute x0 within the batch."""

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pathline.types import Cond, Row

Data = Float[Tensor, "b *shape"]


def independent(x0: Data, *_: object) -> Data:
    """Independent noise, as flow matching has it."""
    return x0


def optimal(x0: Data, x1: Data, *_: object) -> Data:
    """The pairing of least squared distance in the batch (OT-CFM, arXiv 2302.00482).

    Without conditions only: it ties the noise to the condition (C²OT, arXiv 2503.10636).
    """
    return x0[_assignment(x0, x1)]


def within_class(x0: Data, x1: Data, cond: Cond | None = None) -> Data:
    """The pairing of least squared distance within each class."""
    if cond is None or cond.labels is None:
        raise ValueError(
            "coupling=within_class is wrong because this run reads no classes. Set text=labels or "
            "coupling=independent."
        )
    # Noise stays in its class, and so independent of the label: C²OT (arXiv 2503.10636).
    rows = torch.arange(len(x0), device=x0.device)
    for label in cond.labels.unique():
        (same,) = torch.where(cond.labels == label)
        rows[same] = same[_assignment(x0[same], x1[same])]
    return x0[rows]


def _assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """For each row of x1 the row of x0 that goes with it."""
    with torch.autocast(x1.device.type, enabled=False):  # numpy has no half precision
        # |a − b|² without the terms that every pairing shares
        cost = -x1.flatten(1).float() @ x0.flatten(1).float().T
    _, rows = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=x0.device)


COUPLINGS = {
    "independent": independent,
    "optimal": Row(optimal, prefers=("no_conditions",)),
    "within_class": within_class,
}
