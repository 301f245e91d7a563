"""A route is drawn once a loss, from the loss's rng, for whatever the objective does with it."""

from functools import partial

import pytest
import torch

from pathline.backbones.dit import dit
from pathline.backbones.network import Network
from pathline.backbones.token_routing import route_sampler
from pathline.backbones.transition_head import build_head
from pathline.config.pick import function_of
from pathline.flow.couplings import independent
from pathline.flow.paths import STRAIGHT, draw_point
from pathline.flow.times import uniform_draw
from pathline.objectives.table import OBJECTIVES
from pathline.objectives.terms import TERMS, compose
from pathline.objectives.with_route import with_route
from pathline.training.distributed import joined, wrap
from pathline.types import Batch, Cond, Frame, Output, Route

MSE = compose({"mse": (1.0, TERMS["mse"])})
FRAME = Frame(1, 8, 8, classes=3)
ROWS = 6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def drawing(x1, cond, generator):
    return draw_point(x1, cond, generator, path=STRAIGHT, draw=uniform_draw, couple=independent)


def batch_of(rows=ROWS):
    x1 = torch.randn(rows, 1, 8, 8, generator=rng(1))
    labels, null = torch.arange(rows) % 3, torch.tensor([3])
    return Batch(x1, Cond(labels=labels), Cond(labels=null), torch.arange(rows))


def build(objective, route="tread", **more):
    """A network for this objective, every weight of it moved."""
    torch.manual_seed(0)
    takes_r = objective.answers == "average"
    ends = {"route_before": 1, "route_after": 1}
    ways = {"depth": 3, "width": 16, "heads": 2, "patch": 2, "positions": "both", **ends}
    backbone = dit(FRAME, takes_r=takes_r, route=route, **ways, **more)
    head = None if objective.head is None else build_head(backbone, FRAME, **objective.head)
    network = Network(backbone, head=head)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return network


def heard(network, calls):
    """The network, noting what route each call was given."""

    def noting(x, t, cond, call):
        calls.append((len(x), call.route))
        return network(x, t, cond, call)

    return noting


@pytest.mark.parametrize("route", ["tread", "sprint"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_along_one_route(name, route):
    objective = function_of(OBJECTIVES[name])(STRAIGHT)
    network, calls = build(objective, route, path_drop=0.0), []
    plain = objective.loss
    if objective.head is not None:
        plain = partial(plain, patch=network.head.size)
    loss = with_route(plain, route_sampler(network.backbone))
    value, _ = loss(heard(network, calls), batch_of(), rng(), drawing, MSE)
    value.backward()
    assert calls
    whole = calls[-1][1].indices
    assert len(whole) == ROWS
    for rows, given in calls:
        assert torch.equal(given.indices, whole[-rows:])
    assert not [n for n, p in network.named_parameters() if p.grad is None]
    again, _ = loss(network, batch_of(), rng(), drawing, MSE)
    other, _ = loss(network, batch_of(), rng(5), drawing, MSE)
    assert torch.equal(again, value)
    assert not torch.equal(other, value)


@pytest.mark.parametrize("name", ["mean_flow", "improved_mean_flow"])
def test_a_derivative_is_of_what_learns(name):
    """Exact and difference agree along a route; with a new one for each call they would not."""
    found = []
    for ways in ({}, {"derivative": "difference"}):
        objective = function_of(OBJECTIVES[name])(STRAIGHT, instant=0.0, dropout=0.0, **ways)
        network = build(objective, time_scale=1.0)
        loss = with_route(objective.loss, route_sampler(network.backbone))
        found.append(loss(network, batch_of(), rng(), drawing, MSE)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    calls = iter(range(9))

    def fickle(x, t, cond, call):
        route = route_sampler(network.backbone)(x, rng(next(calls)))
        return network(x, t, cond, call._replace(route=route))

    other = loss(fickle, batch_of(), rng(), drawing, MSE)[0].item()
    assert other != pytest.approx(found[1], rel=1e-2)


def test_rows_of_a_derivative_miss_the_same_tokens():
    """A share of rows has r = t and is not differentiated: the others are the last ones."""
    objective = function_of(OBJECTIVES["mean_flow"])(STRAIGHT, instant=0.5)
    network, calls = build(objective), []
    loss = with_route(objective.loss, route_sampler(network.backbone))
    loss(heard(network, calls), batch_of(), rng(), drawing, MSE)
    (few, some), (many, whole) = calls
    assert (few, many) == (3, 6)
    assert torch.equal(some.indices, whole.indices[3:])


def test_without_a_route_the_loss_is_itself():
    objective = function_of(OBJECTIVES["flow"])(STRAIGHT)
    network = build(objective, "none")
    assert route_sampler(network.backbone) is None
    assert with_route(objective.loss, None) is objective.loss


def test_no_share_left_out_differs_by_what_was_drawn_alone():
    """The generator moves on by the route; the loss is then the dense one, bit for bit."""
    objective = function_of(OBJECTIVES["flow"])(STRAIGHT)
    network = build(objective, route_share=0.0)
    draw, generator = route_sampler(network.backbone), rng()
    value, _ = with_route(objective.loss, draw)(network, batch_of(), rng(), drawing, MSE)
    draw(batch_of().x1, generator)
    dense, _ = objective.loss(network, batch_of(), generator, drawing, MSE)
    assert torch.equal(value, dense)


def test_more_rows_than_the_batch_has_are_refused():
    def loss(network, batch, _):
        x = torch.cat([batch.x1, batch.x1])
        return network(x, torch.zeros(len(x)), Cond()), {}

    def network(x, *_):
        return Output(x)

    wrong = with_route(loss, lambda x, _: Route(torch.zeros(len(x), 1, dtype=torch.long)))
    with pytest.raises(ValueError, match="sampled for 6 images and the network is called with 12"):
        wrong(network, batch_of(), rng())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_route_goes_through_wrappers(strategy):
    objective = function_of(OBJECTIVES["mean_flow"])(STRAIGHT)
    network = build(objective)
    loss = with_route(objective.loss, route_sampler(network.backbone))
    wanted, _ = loss(network, batch_of(), rng(), drawing, MSE)
    with joined(strategy, torch.device("cpu")) as (world, _):
        wrapped = wrap(network, world, precision="fp32", compiled=False)
        found, _ = loss(wrapped.forward, batch_of(), rng(), drawing, MSE)
        found.backward()
        torch.testing.assert_close(found, wanted)
        del wrapped
