"""Guidance: a field that extrapolates from another, negative one.

`other` is the unconditional field (cfg, interval, contrastive; path_drop: of a part of the network)
or the field of a weaker network (autoguidance).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pathline.flow.paths import like
from pathline.ranges import NotNegativeFloat, Share, ShareBelowOne
from pathline.types import Field


class Guidance(NamedTuple):
    """A row of GUIDANCE that is more than a wrapper of a field and that of the null condition."""

    wrap: Callable[..., Field]
    other: Literal["null", "weak", "null_without_route"] = "null"  # whose field is the other one
    needs: tuple[str, ...] = ()  # names in compatibility.NEEDS


class Push(NamedTuple):
    """The bias of a contrastive loss: it learns (v − share·mean) / (1 − share) for v."""

    share: float  # weight of the term by that of the squared error, below 1
    mean: Tensor  # [C H W] mean velocity of all images and times; [C 1 1] where sizes differ


def none(field: Field, *_: object) -> Field:
    """The field as it is."""
    return field


def cfg(field: Field, other: Field | None, *_: object, scale: NotNegativeFloat = 3.0) -> Field:
    """other + scale·(field − other) on every channel (arXiv 2207.12598); 1 is no guidance."""
    return interval(field, other, scale=scale, low=0.0, high=1.0)


def interval(
    field: Field,
    other: Field | None,
    *_: object,
    scale: NotNegativeFloat = 3.0,
    low: Share = 0.0,
    high: Share = 1.0,
) -> Field:
    """`cfg` for low ≤ t ≤ high; outside, `other` is not evaluated (arXiv 2404.07724)."""
    if low > high:
        raise ValueError(
            f"low={low} high={high} is wrong because low is above high. Set e.g. low=0 high=1."
        )
    # Neutral: the field itself, so that nothing is computed twice.
    if scale == 1:
        return field
    if other is None:
        raise ValueError(
            f"scale={scale} needs a second field to extrapolate from. Pass one, or set scale=1."
        )

    def guided(x: Tensor, t: Any, *later: Any) -> Tensor:
        v = field(x, t, *later)
        # A float decides for all rows: outside the interval the other field is not evaluated.
        if not isinstance(t, Tensor):
            return _extrapolate(v, other(x, t, *later), scale) if low <= t <= high else v
        # Times by row can't save that evaluation; outside, scale 1 is the field itself.
        return _extrapolate(v, other(x, t, *later), like(_inside(t, low, high, scale, 1.0), x))

    return guided


def autoguidance(
    field: Field, other: Field | None, *_: object, scale: NotNegativeFloat = 1.5
) -> Field:
    """`cfg` with a weaker network under the same condition as `other` (arXiv 2406.02507)."""
    return cfg(field, other, scale=scale)


def path_drop(
    field: Field,
    other: Field | None,
    *_: object,
    scale: NotNegativeFloat = 3.0,
    low: Share = 0.0,
    high: Share = 1.0,
) -> Field:
    """`interval` with the unconditional field without sprint's route (arXiv 2510.21986)."""
    return interval(field, other, scale=scale, low=low, high=high)


def contrastive(
    field: Field,
    other: Field | None,
    push: Push | None = None,
    *,
    scale: NotNegativeFloat = 3.0,
    low: Share = 0.0,
    high: Share = 1.0,
    weight: ShareBelowOne | None = None,
) -> Field:
    """`interval`, with the bias of a contrastive loss undone where it guides (ΔFM).

    Both fields become (1 − weight)·v + weight·mean there (arXiv 2506.05350), plain flow matching's
    velocity. weight: 0 is `interval`; null: the weight that the run was trained with.
    """
    # Where guidance is on, the velocity of plain flow matching is (1 − λ)·v + λ·m.
    guided_only = interval(field, other, scale=scale, low=low, high=high)
    if scale == 1 or weight == 0:
        return guided_only
    if push is None:
        raise ValueError("contrastive guidance needs the mean velocity of the data. Pass a Push.")
    back = push.share if weight is None else weight

    def guided(x: Tensor, t: Any, *later: Any) -> Tensor:
        # Extrapolation is affine, so both fields are corrected at once, in its result.
        share = like(_inside(t, low, high, back, 0.0), x)
        return (1 - share) * guided_only(x, t, *later) + share * push.mean.to(x)

    return guided


def _inside(t: Any, low: float, high: float, within: float, without: float) -> Any:
    """`within` for times of the interval, `without` for others; a tensor for a tensor."""
    if isinstance(t, Tensor):
        return torch.where((t >= low) & (t <= high), within, without)
    return within if low <= t <= high else without


def _extrapolate(v: Tensor, v_other: Tensor, scale: float | Tensor) -> Tensor:
    return v_other + scale * (v - v_other)


GUIDANCE: dict[str, Callable[..., Field] | Guidance] = {
    "none": none,
    "cfg": cfg,
    "interval": interval,
    "autoguidance": Guidance(autoguidance, other="weak", needs=("weak_network",)),
    "contrastive": Guidance(contrastive, needs=("mean_velocity",)),
    "path_drop": Guidance(path_drop, other="null_without_route", needs=("bypass",)),
}
