"""DiT with a route: what misses it, what a join makes of that, and what is refused."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pathline.backbones import token_routing as routes
from pathline.backbones.dit import dit
from pathline.backbones.token_routing import route_sampler, sample_route
from pathline.types import Call, Frame, Route

KINDS = ("tread", "sprint")
TINY = {"depth": 4, "width": 16, "heads": 2, "patch": 2, "route_before": 1, "route_after": 1}
GRID = (4, 6)


def along(args, route):
    """The inputs of a network, with this route."""
    return *args[:3], args[3]._replace(route=route)


def build(classes=3, text=0, size=(8, 12), **settings):
    torch.manual_seed(0)
    return dit(Frame(2, *size, classes, text), **{**TINY, **settings})


def route_of(network, rows=3, seed=0):
    return sample_route(network.shape, GRID, rows, torch.Generator().manual_seed(seed))


def every(rows=3):
    return Route(torch.arange(24).expand(rows, -1))


def given(network, inputs):
    return inputs(network, size=(8, 12))


def watch(network, number, monkeypatch):
    """What block `number` was given and what it answered, by call."""
    calls = []
    forward = network.blocks[number].forward

    def seen(x, *more):
        out = forward(x, *more)
        calls.append((x.detach().clone(), out.detach().clone()))
        return out

    monkeypatch.setattr(network.blocks[number], "forward", seen)
    return calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["sincos", "rope", "both"])
@pytest.mark.parametrize("text", [0, 6])
def test_keeping_all_tokens_is_the_dense_pass(kind, positions, text, perturb, inputs):
    network = perturb(build(text=text, route=kind, positions=positions, route_share=0.0))
    args = given(network, inputs)
    dense = network(*args)
    for route in (every(), Route(route_of(network).indices)):
        out = network(*along(args, route))
        assert torch.equal(out.value, dense.value)
        assert torch.equal(out.hidden, dense.hidden)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["sincos", "rope", "both"])
def test_the_order_of_what_is_kept_is_nothing(kind, positions, perturb, inputs):
    """Places and turns follow their tokens; turns that did not would be heard (control)."""
    network = perturb(build(text=6, route=kind, positions=positions))
    args = given(network, inputs)
    mixed = Route(torch.stack([torch.randperm(24) for _ in range(3)]))
    dense = network(*args).value
    torch.testing.assert_close(network(*along(args, mixed)).value, dense, atol=1e-5, rtol=1e-5)
    if positions == "sincos":
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes.tokens_of, "rope_of", lambda table, _: table)
        wrong = network(*along(args, mixed)).value
    assert (wrong - dense).abs().max() > 1e-3


def test_a_route_brings_nothing_new_to_tread(inputs, perturb):
    plain, network = build(), build(route="tread")
    assert plain.state_dict().keys() == network.state_dict().keys()
    for a, b in zip(plain.parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b)
    perturb(plain), perturb(network)
    args = given(network, inputs)
    assert torch.equal(plain(*args).value, network(*args).value)


def test_blocks_that_are_identities_route_to_the_dense_answer(inputs):
    network = build(route="tread")  # all blocks are, at the start
    nn.init.normal_(network.final.linear.weight)
    args = given(network, inputs)
    assert torch.equal(network(*along(args, route_of(network))).value, network(*args).value)


@pytest.mark.parametrize("text", [0, 6])
def test_tokens_that_miss_the_route_pass_unchanged(text, inputs, perturb, monkeypatch):
    network = perturb(build(text=text, route="tread"))
    before, after = (watch(network, number, monkeypatch) for number in (0, 3))
    first, last = (watch(network, number, monkeypatch) for number in (1, 2))
    route = route_of(network)
    network(*along(given(network, inputs), route))
    (_, tokens), (back, _) = before[0], after[0]
    missed = torch.ones(3, tokens.shape[1], dtype=torch.bool).scatter(1, route.indices, False)
    missed[:, 24:] = False
    assert missed.sum() == 3 * 12
    assert torch.equal(back[missed], tokens[missed])
    assert ((back[~missed] - tokens[~missed]).abs().amax(-1) > 1e-4).all()
    assert first[0][0].shape == last[0][0].shape == (3, 12 + tokens.shape[1] - 24, 16)
    assert torch.equal(first[0][0], tokens[~missed].view(first[0][0].shape))


def test_a_kept_token_does_not_hear_one_that_missed(inputs, perturb, monkeypatch):
    network = perturb(build(route="tread"))
    last = watch(network, 2, monkeypatch)
    route = Route(torch.arange(12).expand(3, -1))
    x, t, cond, _ = given(network, inputs)
    monkeypatch.setattr(network.blocks[0], "forward", lambda x, *_: x)  # they don't meet before
    network(x, t, cond, Call(route=route))
    changed = x.clone()
    changed[:, :, 4:] += 1  # the lower half of the rows: tokens 12 to 23
    network(changed, t, cond, Call(route=route))
    assert torch.equal(last[0][1], last[1][1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [0, 6])
@pytest.mark.parametrize("extra", [{}, {"modulation": "shared", "qk_norm": True}])
def test_every_weight_learns_along_a_route(kind, text, extra, inputs, perturb):
    network = perturb(build(text=text, route=kind, positions="both", **extra))
    route = route_of(network)._replace(skipped=None)
    out = network(*along(given(network, inputs), route))
    assert out.value.shape == (3, 2, 8, 12)
    assert out.hidden.shape == (3, 24, 16)
    out.value.square().mean().backward()
    assert not [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0]


def test_sprint_joins_what_was_before_with_the_route_or_its_mask(inputs, perturb, monkeypatch):
    network = perturb(build(route="sprint"))
    before, inside, after = (watch(network, number, monkeypatch) for number in (0, 2, 3))
    route = route_of(network)._replace(skipped=torch.tensor([False, True, False]))
    network(*along(given(network, inputs), route))
    tokens, said, joined = before[0][1], inside[0][1], after[0][0]
    for row in range(3):
        full = network.fuse.mask.expand(24, -1).clone()
        if row != 1:
            full[route.indices[row]] = said[row]
        wanted = network.fuse.linear(torch.cat([tokens[row], full], dim=1))
        torch.testing.assert_close(joined[row], wanted)


def test_sprint_without_its_stretch_is_as_with_all_of_it_dropped(inputs, perturb, monkeypatch):
    """What guidance by path drop asks, at the price of the blocks before and after."""
    network = perturb(build(text=6, route="sprint"))
    inside = watch(network, 1, monkeypatch)
    args = given(network, inputs)
    dropped = route_of(network)._replace(skipped=torch.ones(3, dtype=torch.bool))
    wanted = network(*along(args, dropped)).value
    assert len(inside) == 1
    nothing = Route(torch.empty(3, 0, dtype=torch.long))
    torch.testing.assert_close(network(*along(args, nothing)).value, wanted)
    assert len(inside) == 1
    assert (network(*args).value - wanted).abs().max() > 1e-3


def test_whole_pictures_are_dropped_as_often_as_asked():
    network = build(route="sprint", path_drop=0.2)
    route = sample_route(network.shape, GRID, 4000, torch.Generator().manual_seed(0))
    assert route.skipped.float().mean() == pytest.approx(0.2, abs=0.03)
    assert (
        sample_route(build(route="sprint", path_drop=0.0).shape, GRID, 3, torch.Generator()).skipped
        is None
    )


@pytest.mark.parametrize(("kind", "keeps"), [("tread", 12), ("sprint", 6)])
def test_shares_where_nobody_says(kind, keeps):
    assert route_of(build(route=kind)).indices.shape == (3, keeps)
    assert route_of(build(route=kind, route_share=0.25)).indices.shape == (3, 18)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients(kind, inputs, perturb):
    plain = perturb(build(text=6, route=kind, positions="both"))
    saving = build(text=6, route=kind, positions="both", checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    route = route_of(plain)
    for network in (plain, saving):
        network(*along(given(network, inputs), route)).value.square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_the_stream_wide(kind, inputs, perturb):
    network = perturb(build(text=6, route=kind))
    args, route = given(network, inputs), route_of(network)
    exact = network(*along(args, route))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*along(args, route))
    assert out.hidden.dtype == torch.float32
    torch.testing.assert_close(out.value.float(), exact.value, atol=0.2, rtol=0.2)
    narrow = network.bfloat16()
    x, t, cond, _ = args
    cond = cond._replace(tokens=cond.tokens.bfloat16())
    assert narrow(x.bfloat16(), t, cond, Call(route=route)).value.dtype == torch.bfloat16


@pytest.mark.parametrize(("look", "fits"), [(0, 1), (1, 1), (2, 0), (3, 0), (4, 1)])
def test_terms_look_outside_the_route(look, fits, inputs, perturb):
    if not fits:
        with pytest.raises(ValueError, match=r"blocks 2 to 3\. Set 1 or less, 4 or more, or 0"):
            build(route="tread", feature_layer=look)
        return
    network = perturb(build(text=6, route="tread", feature_layer=look))
    out = network(*along(given(network, inputs), route_of(network)))
    assert look == 0 or out.inner.shape == (3, 24, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route_after": 3}, "Of 4 blocks 1 are before .* and 3 after"),
        ({"route_before": 0}, "so that 1 or more are before"),
        ({"route": "sprint", "route_share": 0.6}, "groups of 2x2. Set 0.75"),
    ],
)
def test_routes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**{"route": "tread", **settings})


def test_a_route_that_does_not_fit_the_call_is_refused(inputs):
    args = given(build(), inputs)
    with pytest.raises(ValueError, match="built with route=none"):
        build()(*along(args, every()))
    with pytest.raises(ValueError, match="for 2 images, but x has 3"):
        build(route="tread")(*along(args, every(2)))


def test_who_draws():
    assert route_sampler(build()) is None
    choose = route_sampler(build(route="tread"))
    x = torch.zeros(5, 2, 8, 12)
    assert choose(x, torch.Generator().manual_seed(0)).indices.shape == (5, 12)


COMPILED = """
import torch
from pathline.backbones.dit import dit
from pathline.backbones.token_routing import sample_route
from pathline.types import Call, Cond, Frame

ways = dict(depth=3, width=16, heads=2, patch=2, positions="both", route_before=1, route_after=1)
for kind in ("tread", "sprint"):
    torch.manual_seed(0)
    network = dit(Frame(2, 8, 12, 3, 6), route=kind, feature_layer=1, **ways)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    cond = Cond(torch.randn(3, 5, 6), torch.ones(3, 5).bool(), labels=torch.tensor([0, 3, 1]))
    args = torch.randn(3, 2, 8, 12), torch.rand(3), cond
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for seed in (None, 0, 1):
        rng = torch.Generator().manual_seed(seed or 0)
        route = None if seed is None else sample_route(network.shape, (4, 6), 3, rng)
        found = []
        for called in (network, compiled):
            value = called(*args, Call(route=route)).value
            grads = torch.autograd.grad(
                value.square().mean(), list(network.parameters()), allow_unused=True
            )
            found.append((value, *[torch.zeros(()) if g is None else g for g in grads]))
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
    graphs = torch._dynamo.utils.counters["stats"].pop("unique_graphs")
    assert graphs == 2, graphs  # all tokens, and a route: not one for each
"""


@pytest.mark.slow
def test_compiling_whole_changes_nothing():
    """In a process of its own: the checkers of shapes in the tests can't be compiled."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
