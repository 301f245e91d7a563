"""Digits as reference pictures."""

import pytest
import torch

from pathline.data.sources.rows import digits
from pathline.evaluation.training_images import random_rows


@pytest.fixture(scope="module")
def pixels():
    """600 digits in random order: the writers' hands change along the data set."""
    source = digits()
    return torch.stack([source.read(int(row)).image for row in random_rows(source.count, 600, 0)])
