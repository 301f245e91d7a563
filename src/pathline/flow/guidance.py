"""Guidance: a field and another one make a field that leans away from the other.

`other` is the field of the null condition (cfg, interval) or of a weaker network (autoguidance).
"""

from typing import Any

import torch
from torch import Tensor

from pathline.flow.paths import like
from pathline.types import Field


def none(field: Field, *_: object) -> Field:
    """The field as it is."""
    return field


def cfg(field: Field, other: Field | None, *, scale: float = 3.0) -> Field:
    """other + scale·(field − other) on every channel (arXiv 2207.12598); 1 is no guidance."""
    return interval(field, other, scale=scale, low=0.0, high=1.0)


def interval(
    field: Field, other: Field | None, *, scale: float = 3.0, low: float = 0.0, high: float = 1.0
) -> Field:
    """`cfg` for low ≤ t ≤ high; outside, `other` is not even asked (arXiv 2404.07724)."""
    if not 0 <= low <= high <= 1:
        raise ValueError(f"the guidance interval is {low} to {high}; want 0 ≤ low ≤ high ≤ 1")
    if scale == 1:
        return field
    if other is None:
        raise ValueError(
            f"guidance at scale {scale} needs a second field; give one, or use scale 1"
        )

    def guided(x: Tensor, t: Any, *later: Any) -> Tensor:
        v = field(x, t, *later)
        if not isinstance(t, Tensor):
            return _lean(v, other(x, t, *later), scale) if low <= t <= high else v
        inside = (t >= low) & (t <= high)
        return _lean(v, other(x, t, *later), like(torch.where(inside, scale, 1.0), x))

    return guided


def autoguidance(field: Field, other: Field | None, *, scale: float = 1.5) -> Field:
    """`cfg` away from a weaker network under the same condition (arXiv 2406.02507)."""
    return cfg(field, other, scale=scale)


def _lean(v: Tensor, v_other: Tensor, scale: float | Tensor) -> Tensor:
    return v_other + scale * (v - v_other)


GUIDANCE = {"none": none, "cfg": cfg, "interval": interval, "autoguidance": autoguidance}
