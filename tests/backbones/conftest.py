"""Tiny networks of both text backbones, and what is put into them."""

import pytest
import torch

from pathline.backbones.table import BACKBONES
from pathline.config.pick import function_of
from pathline.types import Call, Cond, Frame

TINY = {"depth": 2, "width": 32, "heads": 2, "patch": 2}


@pytest.fixture
def seeded():
    """What a test draws without a generator is the same each time."""
    torch.manual_seed(0)


@pytest.fixture
def build():
    """build(name, classes, text, pooled, **settings) -> a tiny network for pictures of 4x6."""

    def build(name, classes=0, text=6, pooled=0, **settings):
        torch.manual_seed(0)
        frame = Frame(2, 4, 6, classes, text, pooled)
        return function_of(BACKBONES[name])(frame, **{**TINY, **settings})

    return build


@pytest.fixture
def perturb():
    """perturb(network, size) -> the network, every weight of it moved: none is zero any more."""

    def perturb(network, size=0.2):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, generator=generator) * size)
        return network

    return perturb


@pytest.fixture
def inputs():
    """inputs(network, batch, length, size) -> x, t, cond, call, of whatever kinds it takes."""

    def inputs(network, batch=3, length=5, size=(4, 6)):
        frame, g = network.frame, torch.Generator().manual_seed(2)
        x = torch.randn(batch, frame.channels, *size, generator=g)
        t = torch.rand(batch, generator=g)
        labels = torch.randint(frame.classes + 1, (batch,), generator=g) if frame.classes else None
        tokens = mask = pooled = None
        if frame.text_width:
            tokens = torch.randn(batch, length, frame.text_width, generator=g)
            mask = torch.arange(length) < torch.tensor([1, 3, length])[:batch, None]
        if frame.pooled_width:
            pooled = torch.randn(batch, frame.pooled_width, generator=g)
        r = (t + 1) / 2 if network.shape.takes_r else None
        return x, t, Cond(tokens, mask, pooled, labels), Call(r)

    return inputs
