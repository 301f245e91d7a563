"""The objectives by name."""

from pathline.objectives.flow import flow
from pathline.objectives.mean_flow import alpha_flow, improved_mean_flow, mean_flow
from pathline.objectives.terms import TERMS
from pathline.objectives.transition import transition

OBJECTIVES = {
    "flow": flow,
    "mean_flow": mean_flow,
    "improved_mean_flow": improved_mean_flow,
    "alpha_flow": alpha_flow,
    "transition": transition,
}

__all__ = ["OBJECTIVES", "TERMS"]
