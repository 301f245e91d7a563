"""By how much an average velocity exceeds the velocity where it begins; without gradients.

The average u(x, t, r) from t to the later r obeys u = v + (r − t)·du/dt, where du/dt follows the
flow: x moves by v, t by 1, r stays (MeanFlow, arXiv 2505.13447, in our time). Each function here
computes the second summand, the lift: (average, x, t, r, v) -> Lift.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pathline.flow.paths import like
from pathline.ranges import ShareAboveZero, TimeStep

State = Float[Tensor, "b *shape"]
Times = Float[Tensor, " b"]
Average = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, t, r) -> u
Target = Callable[[Average, Tensor, Tensor, Tensor, Tensor], "Lift"]


class Lift(NamedTuple):
    """constant + slope·u, where u is what the network answers at (x, t, r), without gradient.

    The pass that is trained computes u anyway, so that a lift with a slope costs no further pass.
    """

    constant: Tensor  # like x
    slope: float = 0.0

    def at(self, u: Tensor) -> Tensor:
        """The lift where the network answers u."""
        return self.constant + self.slope * u.detach() if self.slope else self.constant


@torch.no_grad()
def exact(average: Average, x: State, t: Times, r: Times, v: State) -> Lift:
    """One pass that carries du/dt along (forward AD).

    With plain attention, as fused ones have no forward AD, and nothing compiled. Dual numbers
    rather than torch.func.jvp, which does not go through the wrappers of DDP and FSDP.
    """
    eager = torch.compiler.set_stance("force_eager")
    with eager, sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level(), Lean():
        u, rise = forward_ad.unpack_dual(average(_dual(x, v), _dual(t, torch.ones_like(t)), r))
        return Lift(torch.zeros_like(u) if rise is None else like(r - t, u) * rise)


class Lean(TorchFunctionMode):
    """Linear layers with one product for the tangent.

    Forward AD computes a second one, with a tangent of the weights that is zero here.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = self._linear(*args, **(kwargs or {})) if func is F.linear else None
        return func(*args, **(kwargs or {})) if out is None else out

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        x, rise = forward_ad.unpack_dual(input)
        if rise is None:
            return None
        return forward_ad.make_dual(F.linear(x, weight, bias), F.linear(rise, weight))


def _dual(x: Tensor, tangent: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torch warns of a file that the first call loads
        warnings.simplefilter("ignore", DeprecationWarning)
        return forward_ad.make_dual(x, tangent)


@torch.no_grad()
def difference(
    average: Average, x: State, t: Times, r: Times, v: State, *, step: TimeStep = 0.005
) -> Lift:
    """Two passes a step before and after, in float32; from one side where 0 or r is nearer."""
    before, after = (t - step).clamp(min=0), torch.minimum(t + step, r)
    with torch.autocast(x.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
        high, low = (average(x + like(s - t, x) * v, s, r) for s in (after, before))
    gap = (after - before).clamp(min=torch.finfo(t.dtype).tiny)
    return Lift(like((r - t) / gap, x) * (high - low))


@torch.no_grad()
def between(
    average: Average, x: State, t: Times, r: Times, v: State, *, alpha: ShareAboveZero = 0.5
) -> Lift:
    """α-Flow's (arXiv 2510.20771): u at the point that v leads to, α of the way to r, less u.

    With s = t + α·(r − t) and x_s = x + (s − t)·v the paper's error is

        Δ = u(x, t, r) − α·v − (1 − α)·u(x_s, s, r),

    which shrinks with α: Δ / α = u − v − (1 − α)/α·(u(x_s, s, r) − u). The error here is Δ / α,
    with gradients of the first u alone: a squared error then has the gradient of the paper's loss
    ‖Δ‖² / α, one divided by its own size that of the official weight α / ‖Δ‖², and both become
    `exact`'s as α falls. alpha 1 lifts nothing, ½ is like shortcut models.
    """
    if alpha == 1:
        return Lift(torch.zeros_like(v))
    s, rest = t + alpha * (r - t), (1 - alpha) / alpha
    with torch.compiler.set_stance("force_eager"):
        return Lift(rest * average(x + like(s - t, x) * v, s, r), -rest)
