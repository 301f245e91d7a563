"""The objectives by name, with the settings that go with each."""

from pathline.objectives.alpha_flow import alpha_flow
from pathline.objectives.flow import flow
from pathline.objectives.mean_flow import improved_mean_flow, mean_flow
from pathline.objectives.terms import TERMS
from pathline.objectives.transition import transition
from pathline.types import Row

# An average velocity is sampled in few steps and may learn its guidance. It wants a network that is
# smooth in time, whose derivative is in the target, and a loss that weighs samples alike
# (docs/methods/mean_flow.md).
AVERAGE = {
    "backbone.takes_r": True,
    "backbone.time_scale": 1.0,
    "terms.adaptive.power": 0.5,
    "terms.mse": 0.0,
    "sample.solver": "jump",
    "sample.steps": 2,
    "sample.guidance": "none",
}

OBJECTIVES = {
    "flow": flow,
    "mean_flow": Row(mean_flow, suggests=AVERAGE),
    "improved_mean_flow": Row(improved_mean_flow, suggests=AVERAGE),
    "alpha_flow": Row(alpha_flow, suggests=AVERAGE),
    "transition": Row(transition, suggests={"sample.solver": "transition"}),
}

__all__ = ["OBJECTIVES", "TERMS"]
