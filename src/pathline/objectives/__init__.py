"""What is learnt: an objective runs the network, terms only read."""

from pathline.objectives.flow import flow
from pathline.objectives.terms import TERMS

OBJECTIVES = {"flow": flow}

__all__ = ["OBJECTIVES", "TERMS"]
