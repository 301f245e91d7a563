"""The heads of transition matching: zero start, who hears whom, refusals, golden numbers."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from pathline.backbones.network import Network
from pathline.backbones.table import BACKBONES
from pathline.backbones.transition_head import build_head
from pathline.config.pick import function_of
from pathline.nn.blocks import patchify
from pathline.types import Call, Cond, Frame, Output

GOLDEN = Path(__file__).parents[1] / "golden" / "dtm.py"
FRAME = Frame(2, 8, 4, classes=3)
TAKE_HEAD = ("cross_dit", "dit", "stream_dit")
TINY = {"depth": 1, "width": 16, "heads": 2, "patch": 2}


def build(name="dit", frame=FRAME, head=None, **settings):
    torch.manual_seed(0)
    backbone = function_of(BACKBONES[name])(frame, **{**TINY, **settings})
    return Network(backbone, head=build_head(backbone, frame, **{"depth": 2, **(head or {})}))


def perturb(network, size=0.2):
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * size)
    return network


def some(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(rows=3, draws=2, group=1):
    """x, t, cond, and a call with y and s."""
    cond = Cond(labels=torch.arange(rows) % 3)
    s = torch.rand(draws * rows, 4, 2, generator=torch.Generator().manual_seed(3))
    s = s[:, ::group, ::group] if group else s[:, :1, :1]
    t = torch.linspace(0.1, 0.9, rows)
    return some(rows, 2, 8, 4), t, cond, Call(y=some(draws * rows, 2, 8, 4, seed=4), s=s)


MEETING = {"kind": "transformer", "group": 2}


@pytest.mark.parametrize("name", TAKE_HEAD)
@pytest.mark.parametrize("head", [{}, MEETING, {**MEETING, "group": 0}])
def test_it_starts_at_zero_and_teaches_every_weight(name, head):
    network, args = build(name, head=head), inputs(group=head.get("group", 1))
    assert network(*args).value.abs().max() == 0
    out = perturb(network)(*args)
    assert out.value.shape == (6, 2, 8, 4)
    assert out.hidden.shape == (3, 8, 16)
    out.value.square().mean().backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert idle == []
    assert not any("backbone.final" in name for name, _ in network.named_parameters())


def test_the_error_names_every_backbone_that_takes_a_head():
    found = []
    for name, row in BACKBONES.items():
        backbone = function_of(row)(Frame(2, 8, 4), **{**TINY, "heads": 1})
        try:
            build_head(backbone, Frame(2, 8, 4))
        except ValueError as error:
            assert "backbone=dit, cross_dit or stream_dit" in str(error)  # noqa: PT017
        else:
            found.append(name)
    assert sorted(found) == sorted(TAKE_HEAD)


def test_it_keeps_the_contract_of_backbones():
    """Without y and s: the velocity at nothing, from a call like any other."""
    network, (x, t, cond, *_) = perturb(build()), inputs()
    out = network(x, t, cond)
    assert out.value.shape == x.shape
    same = network(x, t, cond, Call(y=0 * x, s=torch.zeros(3, 4, 2)))
    torch.testing.assert_close(out.value, same.value)


def test_hidden_states_may_be_handed_back():
    network, args = perturb(build()), inputs()
    once = network(*args)
    calls = []
    network.backbone.register_forward_hook(lambda *_: calls.append(1))
    x, t, cond, call = args
    again = network(some(*x.shape, seed=9), t, cond, call._replace(hidden=once.hidden))
    assert torch.equal(again.value, once.value)  # of x it hears through hidden alone
    assert calls == []


def test_draws_stand_one_whole_batch_after_another():
    network, (x, t, cond, call) = perturb(build()), inputs(rows=3, draws=2)
    both = network(x, t, cond, call).value
    for part in (slice(0, 3), slice(3, 6)):
        alone = network(x, t, cond, Call(y=call.y[part], s=call.s[part])).value
        torch.testing.assert_close(alone, both[part], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("group", [1, 2])
def test_groups_never_meet_in_the_head(group, kind):
    network = perturb(build(head={"group": group, "width": 32, "kind": kind}))
    x, t, cond, call = inputs(draws=1, group=group)
    y, s = call.y, call.s
    plain = network(x, t, cond, call).value
    side = 2 * group
    y_other, s_other = y.clone(), s.clone()
    y_other[:, :, :side, :side] += 1
    s_other[:, 0, 0] = 1 - s_other[:, 0, 0]
    for changed in (call._replace(y=y_other), call._replace(s=s_other)):
        off = (network(x, t, cond, changed).value - plain).abs()
        assert off[:, :, :side, :side].amax((1, 2, 3)).min() > 1e-3
        off[:, :, :side, :side] = 0
        assert off.max() < 1e-5


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_group_hears_all_its_tokens_and_no_others(kind):
    network = perturb(build(head={"group": 2, "width": 32, "kind": kind}))
    _, t, cond, call = inputs(draws=1, group=2)
    hidden = some(3, 8, 16, seed=5)  # rows × columns: 4 × 2
    plain = network(call.y, t, cond, call._replace(hidden=hidden)).value
    for token in range(8):
        other = hidden.clone()
        other[:, token] += some(3, 16, seed=6)
        off = (network(call.y, t, cond, call._replace(hidden=other)).value - plain).abs()
        heard = slice(0, 4) if token < 4 else slice(4, 8)
        assert off[:, :, heard].amax() > 1e-3
        off[:, :, heard] = 0
        assert off.max() < 1e-5


@pytest.mark.parametrize(("group", "reached"), [(1, 1), (2, 4), (0, 8)])
def test_a_token_of_a_transformer_reaches_its_group_alone(group, reached):
    network = perturb(build(head={**MEETING, "group": group}), size=0.4)
    x, t, cond, call = inputs(draws=1, group=group)
    other = call.y.clone()
    other[:, :, 2:4, 2:4] += 1
    off = network(x, t, cond, call._replace(y=other)).value - network(x, t, cond, call).value
    moved = patchify(off, 2).abs().amax((0, 2))  # of each token
    assert (moved > 1e-3).sum() == reached
    assert (moved < 1e-6).sum() == 8 - reached


class Alone(nn.Module):
    """What attention does for a token that sees itself only."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention.out(self.attention.qkv(x).chunk(3, -1)[2])


def test_a_transformer_of_groups_of_one_is_a_network_of_single_tokens():
    alone, args = perturb(build(head={**MEETING, "group": 1})), inputs()
    for block in alone.head.blocks:
        block.attention = Alone(block.attention)
    torch.testing.assert_close(
        alone(*args).value, perturb(build(head={**MEETING, "group": 1}))(*args).value
    )


def test_the_whole_picture_may_be_of_any_size():
    network = perturb(build("stream_dit", Frame(2, 8, 8), head={**MEETING, "group": 0}))
    for height, width in ((8, 8), (4, 12)):
        x, s = some(2, 2, height, width), torch.rand(2, 1, 1)
        out = network(x, torch.tensor([0.2, 0.7]), Cond(), Call(y=x, s=s))
        assert out.value.shape == x.shape


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_sizes_that_groups_cannot_tile_are_refused(kind):
    network = build("stream_dit", head={"kind": kind, "group": 2})
    _, t, cond, *_ = inputs()
    assert network(some(3, 2, 12, 8), t, cond).value.shape == (3, 2, 12, 8)
    with pytest.raises(ValueError, match="4x4 as one, which can't tile 10x8"):
        network(some(3, 2, 10, 8), t, cond)


def test_both_times_are_heard():
    network, (x, t, cond, call) = perturb(build()), inputs()
    once = network(x, t, cond, call)
    again = call._replace(hidden=once.hidden)
    for other in (
        network(x, t, cond, again._replace(s=call.s * 0.9)),
        network(x, t * 0.9, cond, again),
    ):
        assert (other.value - once.value).abs().amax((1, 2, 3)).min() > 1e-4


def test_one_inner_time_serves_all():
    network, (x, t, cond, call) = perturb(build()), inputs()
    one = network(x, t, cond, call._replace(s=torch.full((1, 1, 1), 0.3))).value
    each = network(x, t, cond, call._replace(s=torch.full((6, 4, 2), 0.3))).value
    torch.testing.assert_close(one, each, atol=1e-5, rtol=1e-4)


def test_text_and_autocast():
    frame = Frame(2, 8, 4, text_width=6)
    network = perturb(build(frame=frame, positions="both"))
    x, t, _, call = inputs()
    cond = Cond(some(3, 5, 6), torch.ones(3, 5).bool())
    exact = network(x, t, cond, call)
    assert exact.hidden.shape == (3, 8, 16)  # the picture's tokens alone
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, t, cond, call)
    torch.testing.assert_close(out.value.float(), exact.value, atol=0.1, rtol=0.1)


class Deaf(nn.Module):
    """A network that gives a value only."""

    def forward(self, x, *_):
        return Output(x)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"width": 7}, "width 7 and depth 2 can't represent .* 2x2x2 = 8 values"),
        ({"depth": 0}, "depth 0"),
        ({"group": 3}, "3x3 patches, 6x6 in x, can't tile 8x4"),
        ({"group": 4}, "4x4 patches, 8x8 in x, can't tile 8x4"),
        ({"group": 0}, "objective.head=transformer"),
        ({"group": -1}, "objective.head_group=-1"),
        ({"width": 0}, "head of width 0"),
        ({"group": 2, "width": 31}, "4x4x2 = 32 values"),
        ({**MEETING, "group": 4}, "4x4 tokens can't tile the 4x2 tokens"),
        ({**MEETING, "group": -1}, "-1x-1 tokens"),
        ({**MEETING, "width": 10}, "head_width=10 .* multiple of 4"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        build(head=head)


def test_a_backbone_without_hidden_states_is_refused():
    deaf = Deaf()
    with pytest.raises(ValueError, match="Deaf takes no transition head"):
        build_head(deaf, FRAME)


def test_golden_numbers():
    module = runpy.run_path(str(GOLDEN))
    stored = json.loads(module["FILE"].read_text())
    for name, numbers in module["numbers"]().items():
        assert numbers == pytest.approx(stored[name], rel=1e-4, abs=1e-5), name
