"""Digits as reference pictures."""

import pytest
import torch

from pathline.data.sources.rows import digits
from pathline.evaluation.score import some


@pytest.fixture(scope="module")
def pixels():
    """600 digits in random order: the writers' hands change along the data set."""
    source = digits()
    return torch.stack([source.read(int(row)).image for row in some(source.count, 600, 0)])
