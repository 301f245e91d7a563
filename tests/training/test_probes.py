"""Probes: numbers against direct computation, and that looking changes nothing."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pathline.backbones.dit import dit
from pathline.nn.blocks import gelu
from pathline.training.device import pick_precision
from pathline.training.loop import Progress, train_players
from pathline.training.optim import adamw, muon, roles
from pathline.training.players import Player, lane_rng, tensors_of
from pathline.training.probes import Recorder, entered, head, inside, logits, probes, timed
from pathline.types import Batch, Cond, Frame, Output, Point

CPU = torch.device("cpu")


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(batch, rng):
    x1 = batch.x1
    x0, t = torch.randn(x1.shape, generator=rng), torch.rand(len(x1), generator=rng)
    w = t.view(-1, 1, 1, 1)
    return Point(x0, x1, t, w * x1 + (1 - w) * x0, x1 - x0)


def plain(point, out):
    value = (out.value - point.v).square().mean()
    return value, {"mse": value.detach()}


def player(criterion=plain, optimizer=adamw, **changes):
    torch.manual_seed(0)
    net = dit(Frame(1, 8, 8, classes=3), depth=2, width=16, heads=2, mlp="swiglu", norm="rms")
    for name, p in net.named_parameters():  # at the published start nothing reaches a block
        p.data += 0.1 * some(*p.shape, seed=len(name))

    def loss(network, batch, rng):
        point = draw(batch, rng)
        return criterion(point, network(point.xt, point.t, batch.cond))

    settings = {
        "name": "network",
        "network": net,
        "forward": net,
        "optimizer": optimizer(net, lr=1e-3),
        "loss": loss,
        "rate": lambda _: 1.0,
        "precision": pick_precision("fp32", CPU),
        "clip": 1e-2,
    }
    return Player(**(settings | changes))


def batch(number=0, rows=6):
    cond = Cond(labels=torch.arange(rows) % 3)
    return Batch(some(rows, 1, 8, 8, seed=number), cond, cond, torch.arange(rows))


def feed(progress):
    return [(batch(progress.update), lane_rng(0, progress.update, 0, CPU))]


def run(mine, n, updates=6, more=dict):
    lines, norms = {}, {}
    watched, look = probes(mine, feed, lambda u, _, values: lines.update({u: values}), n, more=more)

    def keep(progress, reports):
        norms[progress.update] = reports[mine.name].norm.item()

    train_players(
        [mine],
        watched,
        Progress(),
        updates=updates,
        batch=6,
        hooks=[look, keep],
        complain=pytest.fail,
    )
    return lines, norms


def test_it_looks_at_every_nth_update_and_never_at_0():
    assert list(run(player(), 2)[0]) == [2, 4, 6]
    assert run(player(), 0)[0] == {}


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_looking_changes_nothing(optimizer):
    blind, seen = player(optimizer=optimizer), player(optimizer=optimizer)
    run(blind, 0)
    run(seen, 1)
    for one, other in zip(tensors_of(blind).values(), tensors_of(seen).values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_no_hook_is_left():
    mine = player()
    run(mine, 1, updates=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.network.modules())


def test_gradients_of_all_roles_make_the_norm_before_clipping():
    lines, norms = run(player(), 3)
    for update, values in lines.items():
        found = [v for name, v in values.items() if name.startswith("gradient/")]
        assert math.hypot(*found) == pytest.approx(norms[update], rel=1e-5)
        assert norms[update] > 1e-2  # the control: it was clipped
    assert {n[9:] for n in lines[3] if n.startswith("gradient/")} == set(roles(player().network))


def test_the_ratio_is_what_the_step_did():
    mine = player(optimizer=lambda net, lr: torch.optim.SGD(net.parameters(), lr=lr), clip=0.0)
    before = {name: p.detach().clone() for name, p in mine.network.named_parameters()}
    values = run(mine, 1, updates=1)[0][1]
    names = roles(mine.network)["mlp"]
    live = dict(mine.network.named_parameters())
    moved = math.hypot(*((live[n] - before[n]).norm().item() for n in names))
    size = math.hypot(*(before[n].norm().item() for n in names))
    assert values["ratio/mlp"] == pytest.approx(moved / size, rel=1e-4)
    assert moved == pytest.approx(1e-3 * values["gradient/mlp"], rel=1e-4)


def test_what_is_not_finite_is_left_out():
    mine = player()
    for name in roles(mine.network)["modulation"]:
        mine.network.get_parameter(name).data.zero_()
    values = run(mine, 1, updates=1)[0][1]
    assert "ratio/mlp" in values
    assert "ratio/modulation" not in values  # its weights were 0 before the update
    assert all(math.isfinite(value) for value in values.values())


class Bend(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, x):
        return self.blocks[0](x)


@pytest.mark.parametrize("bend", [gelu, F.silu, torch.relu])
def test_a_non_linearity_is_seen_before_and_after_in_blocks_only(bend):
    net, x = Bend(), some(50, seed=3)
    net.blocks[0].forward = bend
    with entered(net) as stack, Recorder(stack) as recorder:
        bend(100 * x)  # outside of a block
        net(x)
    values, y = recorder.values(), bend(x)
    assert set(values) == {
        f"blocks.0/activation_{side}_{what}" for side in ("in", "out") for what in ("rms", "max")
    }
    for side, tensor in (("in", x), ("out", y)):
        rms, most = (values[f"blocks.0/activation_{side}_{what}"] for what in ("rms", "max"))
        assert rms.item() == pytest.approx(tensor.square().mean().sqrt().item())
        assert most == tensor.abs().max()


def test_logits_are_those_before_softmax():
    q, k, v = (some(2, 3, 5, 4, seed=n) for n in range(3))
    mask = torch.rand(2, 1, 1, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    for given in (None, mask, torch.zeros(5, 5).masked_fill(~mask[0, 0], -math.inf)):
        by_hand = logits(q, k, v, attn_mask=given).softmax(-1) @ v
        theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=given)
        torch.testing.assert_close(by_hand, theirs)
    assert torch.allclose(logits(q, k, scale=1.0), 2 * logits(q, k))
    few = k[:, :1]
    assert torch.equal(logits(q, few), logits(q, few.expand_as(k)))


def test_the_attention_of_every_block_is_seen():
    mine = player()
    values = inside(mine, batch(), torch.Generator().manual_seed(0))
    module = mine.network.blocks[1].attention
    caught = []
    hook = module.register_forward_hook(lambda _, args, __: caught.append(args[0]))
    mine.loss(mine.network, batch(), torch.Generator().manual_seed(0))
    hook.remove()
    q, k, _ = module.qkv(caught[0]).unflatten(-1, (3, 2, 8)).unbind(2)
    most = (torch.einsum("blhd,bmhd->bhlm", q, k) / 8**0.5).abs().max()
    assert values["blocks.1/logit_max"].item() == pytest.approx(most.item(), rel=1e-5)
    assert {name.partition("/")[0] for name in values} == {"blocks.0", "blocks.1"}


def test_masked_logits_do_not_count():
    net = Bend()
    q = torch.ones(1, 1, 2, 1)
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    k = torch.tensor([2.0, 90.0]).view(1, 1, 2, 1)
    net.blocks[0].forward = lambda x: F.scaled_dot_product_attention(x, k, x, attn_mask=mask)
    with entered(net) as stack, Recorder(stack) as recorder:
        net(q)
    assert recorder.values()["blocks.0/logit_max"] == 2


def test_losses_by_time_are_means_over_what_was_trained_on():
    criterion, told = timed(plain)
    points = [draw(batch(n, rows=40), torch.Generator().manual_seed(n)) for n in range(3)]
    for point in points:
        criterion(point, Output(torch.zeros_like(point.v)))
    with torch.no_grad():  # validation is not counted
        criterion(points[0], Output(points[0].v + 100))
    t = torch.cat([point.t for point in points])
    error = torch.cat([point.v.square().flatten(1).mean(1) for point in points])
    found = told()
    assert list(found) == [f"loss/t={0.05 + index / 10:.2f}" for index in range(10)]
    for index, value in enumerate(found.values()):
        mine = (t >= index / 10) & (t < (index + 1) / 10)
        torch.testing.assert_close(value, error[mine].mean())
    assert told() == {}


def test_the_criterion_stays_what_it_was():
    point = draw(batch(), torch.Generator().manual_seed(0))
    out = Output(some(*point.v.shape, seed=9))
    assert timed(plain)[0](point, out) == plain(point, out)


def test_losses_by_time_come_with_the_other_numbers_and_bins_without_pictures_do_not():
    criterion, told = timed(plain)
    lines, _ = run(player(criterion), 6, more=told)
    found = [name for name in lines[6] if name.startswith("loss/t=")]
    assert 0 < len(found) <= 10
    assert all(math.isfinite(value) for value in lines[6].values())
    still = timed(plain)
    still[0](draw(batch(rows=1), torch.Generator().manual_seed(0)), Output(torch.zeros(1, 1, 8, 8)))
    assert sum(value.isfinite().item() for value in still[1]().values()) == 1


def test_a_picture_whose_error_is_not_finite_is_left_out():
    criterion, told = timed(plain)
    point = draw(batch(rows=40), torch.Generator().manual_seed(0))
    value = torch.zeros_like(point.v)
    value[0] = math.nan
    criterion(point, Output(value))
    assert all(value.isfinite() for value in told().values())


def test_an_update_that_was_not_taken_is_not_told():
    def broken(point, out):
        value, terms = plain(point, out)
        return value * math.nan, terms

    lines, mine = [], player(broken)
    watched, look = probes(mine, feed, lambda *line: lines.append(line), 1)
    train_players(
        [mine], watched, Progress(), updates=2, batch=6, hooks=[look], complain=lambda *_: None
    )
    assert lines == []


def test_another_player_is_told_by_its_name():
    lines, _ = run(player(name="critic"), 6)
    assert all(name.startswith("critic/") for name in lines[6])


def test_the_head_of_a_batch():
    first = head(batch(rows=6), 2)
    assert (len(first.x1), len(first.keys), len(first.cond.labels)) == (2, 2, 2)
