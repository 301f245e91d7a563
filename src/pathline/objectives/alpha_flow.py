"""α-Flow (arXiv 2510.20771): mean flow without a derivative, whose α falls in the training."""

import math
from functools import partial
from typing import Literal

from pathline.flow.paths import Path
from pathline.objectives.mean_flow import Aim, build_mean_flow
from pathline.objectives.mean_flow_target import Target, between, exact
from pathline.ranges import NotNegativeFloat, Share, ShareAboveZero, ShareBelowOne
from pathline.types import Objective

LEAST = 0.005  # below this α the derivative is used; above 1 − LEAST there is no lift


def _falling(done: float, alpha: float, begin: float, end: float) -> Target:
    """α-Flow's at this share of the training: α falls from 1 to `alpha` along a sigmoid."""
    # sigmoid(slope) by tanh, which can't overflow; with 25 both ends are within 1e-5.
    slope = 25 * ((begin + end) / 2 - done) / (end - begin)
    now = alpha + (1 - alpha) * (1 + math.tanh(slope / 2)) / 2
    if now < LEAST:
        return exact
    return partial(between, alpha=1.0 if now > 1 - LEAST else now)


def alpha_flow(
    path: Path,
    *,
    prediction: Literal["v", "x1"] = "v",
    dropout: Share = 0.1,
    floor: ShareAboveZero = 0.05,
    instant: Share = 0.25,
    guidance: NotNegativeFloat = 1.0,
    mix: ShareBelowOne = 0.5,
    low: Share = 0.0,
    high: Share = 1.0,
    alpha: Share = 0.5,
    begin: Share = 0.0,
    end: Share = 0.0,
) -> Objective:
    """α-Flow: average velocities that agree along a trajectory, learned without a derivative.

    alpha: where between t and r the trajectory is cut; 1 is flow matching along trajectories,
    towards 0 mean flow. begin, end: shares of the training between which it falls to alpha from 1
    (the paper: 0.5 to 0.83, to alpha 0, where the derivative is used); end 0: it is constant.
    Settings as of mean_flow.
    """
    if begin > end or (begin == end and end):
        raise ValueError(
            f"begin={begin} end={end} is wrong because alpha falls from begin to end. Set "
            "0 ≤ begin < end ≤ 1, or neither."
        )
    # A constant α below LEAST would divide by almost 0; one that falls turns into the derivative.
    if not end and alpha < LEAST:
        raise ValueError(
            f"alpha={alpha} is wrong because it is below {LEAST} and constant (end is "
            "0). Set objective=mean_flow for a constant alpha of 0."
        )
    # A constant α, or one that falls with the progress of the training.
    constant = partial(between, alpha=alpha)
    lift_at = partial(_falling, alpha=alpha, begin=begin, end=end) if end else lambda _: constant
    aim = Aim(guidance, mix, low, high)
    return build_mean_flow(
        lift_at, aim, path, prediction, floor, dropout, instant, follows_network=False
    )
