"""DiT's sizes: the published counts of weights, and the numbers that are refused."""

from contextlib import contextmanager
from dataclasses import replace

import jaxtyping
import pytest
import torch

from pathline.backbones.dit import SHAPES, DiTShape, dit
from pathline.backbones.table import BACKBONES
from pathline.types import Frame

TINY = {"depth": 2, "width": 16, "heads": 2, "patch": 2}
# facebookresearch/DiT with 1000 classes, 32x32x4 latents, learn_sigma; its frozen pos_embed, which
# is a parameter there and none here, is counted apart: DiT prints 675,129,632 for XL/2
PUBLISHED = {
    "S/2": 32_963_360,
    "S/4": 32_945_024,
    "S/8": 33_148_160,
    "B/2": 130_512_416,
    "B/4": 130_475_648,
    "B/8": 130_881_536,
    "L/2": 458_102_816,
    "L/4": 458_053_760,
    "L/8": 458_594_816,
    "XL/2": 675_129_632,
    "XL/4": 675_074_432,
    "XL/8": 675_683_072,
}


def counted(height, depth, patch, classes=1000, channels=4):
    """The formula of the official module list."""
    patch_dim = patch**2
    blocks = depth * (18 * height**2 + 15 * height)
    time = 257 * height + height**2 + height
    embed = patch_dim * channels * height + height + (classes + 1) * height
    final = 2 * height**2 + 2 * height + (height + 1) * patch_dim * 2 * channels
    positions = (32 // patch) ** 2 * height
    return blocks + time + embed + final + positions


@pytest.mark.parametrize("size", SHAPES)
def test_published_parameter_counts(size):
    with torch.device("meta"):
        network = dit(Frame(4, 32, 32, classes=1000), size=size, outputs=8)
    own = sum(p.numel() for p in network.parameters())
    shape = SHAPES[size]
    total = own + network.positions().numel()
    assert total == PUBLISHED[size] == counted(shape.width, shape.depth, shape.patch)
    block = sum(p.numel() for p in network.blocks[0].parameters())
    assert block == 18 * shape.width**2 + 15 * shape.width


def test_shapes_are_varied_not_edited():
    small = replace(SHAPES["S/2"], depth=2)
    assert isinstance(small, DiTShape)
    assert SHAPES["S/2"].depth == 12
    assert BACKBONES["dit"] is dit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 18}, "that 4 divides, got 18"),
        ({"width": 20, "heads": 3}, "20 can't be split among 3 heads"),
        ({"width": 20, "heads": 2, "positions": "rope"}, "heads of a width that 4 divides, got 10"),
        ({"patch": 4}, "width 6 is no multiple of 4. Nearest: 4 or 8"),
        ({"size": "S/3"}, "no DiT size 'S/3'. Did you mean 'S/"),
        ({"outputs": 0}, "outputs=0 is wrong because x has 2 channels"),
        ({"outputs": 1}, "outputs=1 is wrong because x has 2 channels"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dit(Frame(2, 4, 6), **{**TINY, **settings})


@contextmanager
def jaxtyping_off():
    """As in production, where no checker stands before our own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
