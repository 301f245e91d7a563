"""The Fréchet distance between two sets of features (FID's formula), in float64."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Statistics(NamedTuple):
    mean: Tensor  # [D] float64
    cov: Tensor  # [D D] float64, divided by n − 1
    n: int


def statistics(features: Float[Tensor, "n d"]) -> Statistics:
    """Mean and covariance of the features of at least 2 pictures; raises where not finite."""
    n = len(features)
    if n < 2:
        raise ValueError(f"{n} images are wrong because a covariance needs at least 2. Give more.")
    # float64: the distance is a small difference of large traces.
    features = features.detach().double()
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).sum())
        raise ValueError(f"features of {bad} of {n} pictures are not finite. Check these pictures.")
    mean = features.mean(0)
    spread = features - mean
    return Statistics(mean, spread.T @ spread / (n - 1), n)


def frechet(a: Statistics, b: Statistics) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2·sqrt(Σa·Σb)); 0 … ∞, biased upwards at small n."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of width {len(a.mean)} against width {len(b.mean)}; "
            "both sets must come from the same extractor"
        )
    # the trace of sqrt(Σa·Σb) is the nuclear norm of √Σa·√Σb, which is symmetric in a and b
    shared = torch.linalg.svdvals(_root(a.cov) @ _root(b.cov)).sum()
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, (apart + a.cov.trace() + b.cov.trace() - 2 * shared).item())


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues within rounding of 0 count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    values = torch.where(values > values[-1] * len(cov) * torch.finfo(cov.dtype).eps, values, 0.0)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
