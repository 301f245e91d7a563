"""Rows that several presets share."""

from typing import Any

from pathline.config.pick import Pick, pick

# A small transformer: few tokens, both kinds of positions, a label table that is learnt quickly.
SMALL = pick(
    "dit",
    width=128,
    depth=3,
    heads=4,
    patch=2,
    norm="rms",
    mlp="swiglu",
    qk_norm=True,
    positions="both",
    modulation="shared",
    label_std=1.0,
)
VELOCITY = pick("flow", prediction="v", dropout=0.1)
DATA = pick("flow", prediction="x1", dropout=0.1, floor=0.05)
EARLY = pick("logit_normal", mean=-0.8, std=0.8)  # times, more of them near noise


def small(**options: Any) -> Pick:
    """SMALL with other options."""
    return Pick(SMALL.name, {**SMALL.options, **options})


def adamw(lr: float) -> Pick:
    """AdamW with a short memory of squared gradients, for short trainings."""
    return pick("adamw", lr=lr, beta1=0.9, beta2=0.95)


def cosine(warmup: int) -> Pick:
    """A warm-up of so many updates, then down to 5 %."""
    return pick("cosine", warmup=warmup, floor=0.05)
