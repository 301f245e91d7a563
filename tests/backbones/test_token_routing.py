"""Routes through the backbones of any picture size: as through dit, whose tests go deeper."""

import pytest
import torch

from pathline.backbones.token_routing import route_sampler, sample_route
from pathline.types import Route

KINDS = ("tread", "sprint")
NAMES = ("cross_dit", "stream_dit")
ENDS = {"depth": 4, "route_before": 1, "route_after": 1}
SIZE = (8, 12)


def along(args, route):
    """The inputs of a network, with this route."""
    return *args[:3], args[3]._replace(route=route)


def route_of(network, grid=(4, 6)):
    return sample_route(network.shape, grid, 3, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_tokens_is_the_dense_pass(name, kind, build, perturb, inputs):
    network = perturb(build(name, route=kind, **ENDS))
    args = inputs(network, size=SIZE)
    every = Route(torch.arange(24).expand(3, -1))
    assert torch.equal(network(*along(args, every)).value, network(*args).value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_what_is_kept_is_nothing(name, kind, build, perturb, inputs):
    network = perturb(build(name, classes=3, route=kind, **ENDS))
    args = inputs(network, size=SIZE)
    mixed = Route(torch.stack([torch.randperm(24) for _ in range(3)]))
    dense = network(*args).value
    torch.testing.assert_close(network(*along(args, mixed)).value, dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns_along_a_route(name, kind, build, perturb, inputs):
    network = perturb(build(name, classes=3, pooled=5, route=kind, **ENDS))
    route = route_of(network)._replace(skipped=None)
    out = network(*along(inputs(network, size=SIZE), route))
    assert out.value.shape == (3, 2, *SIZE)
    assert out.hidden.shape == (3, 24, 32)
    out.value.square().mean().backward()
    assert not [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_are_identities_route_to_the_dense_answer(name, build, inputs):
    network = build(name, text=0, route="tread", **ENDS)
    torch.nn.init.normal_(network.final.linear.weight)
    args = inputs(network, size=SIZE)
    assert torch.equal(network(*along(args, route_of(network))).value, network(*args).value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_route_is_of_the_picture_at_hand(name, kind, build, perturb, inputs):
    """The sizes of buckets differ, and odd sides are no trouble."""
    network = perturb(build(name, route=kind, **ENDS))
    for size in (SIZE, (10, 6)):
        args = inputs(network, size=size)
        route = route_sampler(network)(args[0], torch.Generator().manual_seed(0))
        assert network(*along(args, route)).value.shape == (3, 2, *size)


@pytest.mark.parametrize("name", NAMES)
def test_a_route_that_cannot_be_is_refused(name, build, inputs):
    with pytest.raises(ValueError, match=r"Of 4 blocks 2 are before .* and 2 after"):
        build(name, route="tread", depth=4)
    plain = build(name, depth=4)
    with pytest.raises(ValueError, match="built with route=none"):
        plain(*along(inputs(plain), Route(torch.zeros(3, 1, dtype=torch.long))))
