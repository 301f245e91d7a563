"""Scores of a run: the comparison, its report, and the hook that evaluates during training."""
