"""Scores of pictures: each metric is a function of features, states or pictures."""
