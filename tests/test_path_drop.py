"""Guidance away from the null condition without the route: what runs, and what is refused."""

import pytest
import torch

from pathline.assemble import assemble, sampler
from pathline.config.pick import pick
from pathline.config.run import Run, Sample
from pathline.generate import sample_steps
from pathline.types import Facts

FACTS = Facts(1, 8, 8, names=tuple("abc"), words=("a", "cat"))
NET = {"width": 32, "depth": 4, "heads": 2, "patch": 2, "route_before": 1, "route_after": 1}


def made(route, objective="flow", text="labels"):
    net = pick("dit", route=route, **NET)
    parts = assemble(Run(text=pick(text), backbone=net, objective=pick(objective)), FACTS)
    rng = torch.Generator().manual_seed(1)
    for p in parts.network.parameters():  # the fresh network's output is exactly 0
        p.data.add_(0.1 * torch.randn(p.shape, generator=rng))
    return parts


def drawn(parts, guidance, **settings):
    walk = sampler(Sample(steps=4, guidance=guidance, **settings), parts.path)
    items = ["a cat", "cat"] if parts.facts.names and parts.text.module else [0, 1]
    x = list(sample_steps(parts, items, [0, 1], walk))[-1].x
    return x


@pytest.mark.parametrize(
    ("objective", "text"),
    [("flow", "words"), pytest.param("transition", "labels", marks=pytest.mark.slow)],
)
def test_the_weaker_side_does_without_the_blocks_of_the_route(objective, text):
    parts = made("sprint", objective, text)
    more = {"solver": pick("transition")} if objective == "transition" else {}
    backbone = next(m for m in parts.network.modules() if hasattr(m, "fuse"))
    calls = [0] * 4
    for number, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
    led = drawn(parts, pick("path_drop", scale=2.0), **more)
    assert calls == [8, 4, 4, 8]
    usual = drawn(parts, pick("cfg", scale=2.0), **more)
    plain = drawn(parts, pick("none"), **more)
    assert calls == [20, 16, 16, 20]
    for other in (usual, plain):
        assert (led - other).abs().max() > 1e-3
    assert torch.equal(drawn(parts, pick("path_drop", scale=1.0), **more), plain)


@pytest.mark.parametrize("route", ["none", "tread"])
def test_a_network_that_cannot_do_without_is_refused(route):
    with pytest.raises(ValueError, match=r"backbone\.route=sprint"):
        drawn(made(route), pick("path_drop"))
