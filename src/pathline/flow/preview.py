"""Previews while sampling: the clean prediction at a state, without a further evaluation."""

from collections.abc import Callable

import torch
from torch import Tensor

from pathline.flow.paths import Path, State, x1_from_velocity
from pathline.types import Field


def reuse_last(field: Field) -> Field:
    """The field, which returns its last velocity again for the very same x and t.

    A preview asks for the velocity that the next solver step asks for; it is computed once.
    """
    x_last, t_last, v_last = None, None, torch.empty(0)

    def velocity(x: Tensor, t: float, *later: Tensor | float) -> Tensor:
        nonlocal x_last, t_last, v_last
        if later:  # average velocities and heads: where the step ends matters too
            return field(x, t, *later)
        # Compared by identity: each state is a new tensor, and values would synchronise.
        if x is not x_last or t != t_last:
            x_last, t_last, v_last = x, t, field(x, t)
        return v_last

    return velocity


def x1_prediction(path: Path, field: Field, x: State, t: float) -> Callable[[], Tensor]:
    """The clean prediction x̂1 at (x, t), computed when the result is called; x itself at t = 1."""

    @torch.no_grad()
    def predict_x1() -> Tensor:
        if t >= 1:
            return x
        return x1_from_velocity(path, field(x, t), x, t)

    return predict_x1
