"""Muon: its partition, its steps beside torch's own, fused matrices, shards, and resuming."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pathline.backbones.dit import dit
from pathline.backbones.network import Network
from pathline.text.learned import WordEncoder
from pathline.training.device import pick_precision
from pathline.training.muon import Muon, Together, orthogonal
from pathline.training.optim import adamw, describe, muon, partition, role, roles
from pathline.training.players import Player, lane_rng, restore, state_of, tensors_of, update
from pathline.types import Batch, Cond, Frame

CPU = torch.device("cpu")
GROUP = {
    "lr": 1.0,
    "adjust_lr_fn": "none",
    "ns_coefficients": (3.4445, -4.775, 2.0315),
    "ns_steps": 5,
    "eps": 1e-7,
}


def network(seed=0, **options):
    torch.manual_seed(seed)
    shape = {"depth": 2, "width": 16, "heads": 2, "mlp": "swiglu", "norm": "rms", "qk_norm": True}
    return dit(Frame(1, 8, 8, classes=3), **(shape | options))


def worded():
    words = WordEncoder(5, 16, 4, 1)
    backbone = dit(Frame(3, 8, 8, text_width=16), depth=1, width=16, heads=2)
    return Network(backbone, words=words)


def flat(found):
    return [name for kinds in found.values() for names in kinds.values() for name in names]


@pytest.mark.parametrize("make", [network, worded, lambda: nn.Linear(3, 2)])
def test_each_weight_has_one_role_and_one_optimizer(make):
    net = make()
    names = [name for name, _ in net.named_parameters()]
    assert sorted(flat({"all": roles(net)})) == sorted(flat(partition(net))) == sorted(names)
    held = [p for group in muon(net).param_groups for p in group["params"]]
    assert len(held) == len({*held}) == len(names)


def test_frozen_weights_have_no_role():
    net = network()
    net.blocks.requires_grad_(False)
    assert not [name for name in flat(partition(net)) if name.startswith("blocks")]


def test_muon_has_the_matrices_of_attention_and_feed_forward_and_nothing_else():
    found = partition(network())["muon"]
    matrices = [f"blocks.{index}.{at}.weight" for index in (0, 1) for at in ("mlp.up", "mlp.down")]
    assert sorted(found) == ["attention", "mlp"]
    assert sorted(found["mlp"]) == sorted(matrices)
    assert len(found["attention"]) == 4


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("patch.0.weight", "embed"),
        ("label_table.weight", "embed"),
        ("blocks.3.attention.qkv.weight", "attention"),
        ("blocks.3.cross_attention.kv.weight", "attention"),
        ("blocks.3.mlp.up.bias", "mlp"),
        ("blocks.3.norm1.weight", "norm"),
        ("blocks.3.modulation.table", "modulation"),
        ("shared.weight", "modulation"),
        ("final.modulation.linear.weight", "final"),
        ("backbone.final.linear.weight", "final"),
        ("words.refiners.0.attention.qkv.weight", "text"),
        ("backbone.text_refiners.0.attention.qkv.weight", "attention"),
        ("backbone.text.linear.weight", "text"),
        ("weight", "other"),
    ],
)
def test_role(name, wanted):
    assert role(name) == wanted


def test_more_than_two_axes_and_adapters_go_to_adamw():
    net = nn.ModuleDict({"mlp": nn.Conv2d(2, 2, 3), "attention": nn.Module()})
    net["attention"].lora_A = nn.Linear(4, 2)
    assert partition(net)["muon"] == {}
    with pytest.raises(ValueError, match="2D"):
        Muon([net["mlp"].weight])


def test_the_line_tells_every_weight():
    net = network()
    line = describe(net, muon(net))
    assert line.startswith("muon: attention 2,048, mlp ")
    assert "; adamw: embed " in line
    assert describe(net, adamw(net)).startswith("adamw: embed ")
    counts = [word.strip(",;") for word in line.split() if word[0].isdigit()]
    total = sum(int(count.replace(",", "")) for count in counts)
    assert total == sum(p.numel() for p in net.parameters())


def test_the_update_is_nearly_orthogonal():
    """Five steps of Newton-Schulz leave the values of a well-conditioned matrix in 0.68 … 1.2."""
    x = torch.randn(128, 384, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(x, GROUP))
    assert 0.67 < values.min() < values.max() < 1.2
    assert ((values > 0.7) & (values < 1.2)).float().mean() > 0.8
    before = torch.linalg.svdvals(x / x.norm())  # the control: what goes in is far from it
    assert before.max() < 0.2


def stepped(make, gradients, weight=None):
    p = nn.Parameter(torch.linspace(-1, 1, 24 * 8).view(24, 8) if weight is None else weight)
    optimizer = make(p)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WAYS = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_plain_matrix_moves_as_torch_moves_it(nesterov):
    gradients = [some(24, 8, seed=n) for n in range(4)]
    ours, theirs = (
        stepped(lambda p, kind=kind: kind([p], nesterov=nesterov, **WAYS), gradients)
        for kind in (Muon, torch.optim.Muon)
    )
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # theirs rounds to bf16


def test_a_fused_matrix_moves_as_its_three_parts():
    gradients = [some(24, 8, seed=n) for n in range(4)]
    fused = stepped(lambda p: Muon([{"params": [p], "parts": 3}], **WAYS), gradients)
    whole = stepped(lambda p: Muon([p], **WAYS), gradients)
    start = torch.linspace(-1, 1, 24 * 8).view(24, 8)
    apart = [
        stepped(lambda p: Muon([p], **WAYS), [g[rows] for g in gradients], start[rows])
        for rows in torch.arange(24).chunk(3)
    ]
    assert torch.equal(fused, torch.cat(apart))
    assert (fused - whole).abs().max() > 1e-3


def test_qkv_and_gated_layers_are_known_as_fused():
    net = network()
    live = {p: name for name, p in net.named_parameters()}
    parts = {live[p]: g.get("parts") for g in muon(net).param_groups for p in g["params"]}
    assert parts["blocks.0.attention.qkv.weight"] == 3
    assert parts["blocks.0.attention.out.weight"] == 1
    assert parts["blocks.0.mlp.up.weight"] == 2
    assert parts["patch.weight"] is None
    plain = network(mlp="gelu")
    held = {p: g.get("parts") for g in muon(plain).param_groups for p in g["params"]}
    assert held[plain.blocks[0].mlp.up.weight] == 1


@pytest.fixture
def mesh():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_sharded_matrix_moves_as_a_whole_one(mesh):
    gradients, start = [some(24, 8, seed=n) for n in range(3)], some(24, 8, seed=9)

    def make(p):
        return Muon([{"params": [p], "parts": 3}], **WAYS)

    whole = stepped(make, gradients, start.clone())
    spread = [distribute_tensor(x, mesh, [Shard(0)]) for x in (*gradients, start.clone())]
    sharded = stepped(make, spread[:-1], spread[-1])
    assert isinstance(sharded, DTensor)
    assert torch.equal(sharded.full_tensor(), whole)


def loss(net, batch, rng):
    point = torch.randn(batch.x1.shape, generator=rng)
    t = torch.rand(len(point), generator=rng)
    value = (net(point, t, batch.cond).value - batch.x1).square().mean()
    return value, {"mse": value.detach()}


def player(seed=0, precision="fp32"):
    net = network(seed)
    return Player(
        name="network",
        network=net,
        forward=net,
        optimizer=muon(net, lr=0.01, other_lr=0.002, weight_decay=0.01),
        loss=loss,
        rate=lambda n: 1 / (n + 1),
        precision=pick_precision(precision, CPU),
    )


def lane(number):
    cond = Cond(labels=torch.tensor([0, 1, 2, 3]))
    return Batch(some(4, 1, 8, 8, seed=number), cond, cond, torch.arange(4)), lane_rng(
        0, 0, number, CPU
    )


def test_a_restored_player_goes_on_bit_for_bit():
    straight, first, second = player(), player(), player(seed=1)
    for n in range(6):
        update(straight, [lane(n)], n)
    for n in range(3):
        update(first, [lane(n)], n)
    restore(second, tensors_of(first), state_of(first))
    for n in range(3, 6):
        update(second, [lane(n)], n)
    for mine, theirs in zip(
        tensors_of(straight).values(), tensors_of(second).values(), strict=True
    ):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    kinds = {key.rsplit("/", 1)[1] for key in tensors_of(straight)["network-optimizer"]}
    assert kinds == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


def test_the_schedule_reaches_both_optimizers():
    mine = player()
    update(mine, [lane(0)], 3)
    rates = {group.get("parts"): group["lr"] for group in mine.optimizer.param_groups}
    assert rates[3] == pytest.approx(0.01 / 4)
    assert rates[None] == pytest.approx(0.002 / 4)


def test_a_loss_scaler_steps_it():
    mine = player(precision="fp16")
    before = mine.network.blocks[0].attention.qkv.weight.detach().clone()
    for n in range(4):
        update(mine, [lane(n)], n)
    assert not torch.equal(before, mine.network.blocks[0].attention.qkv.weight)
    assert all(p.isfinite().all() for p in mine.network.parameters())


def test_its_state_dict_comes_back():
    mine, theirs = player(), player()
    update(mine, [lane(0)], 0)
    theirs.network.load_state_dict(mine.network.state_dict())
    theirs.optimizer.load_state_dict(deepcopy(mine.optimizer.state_dict()))
    for one in (mine, theirs):
        update(one, [lane(1)], 1)
    assert isinstance(theirs.optimizer, Together)
    for p, q in zip(mine.network.parameters(), theirs.network.parameters(), strict=True):
        assert torch.equal(p, q)
