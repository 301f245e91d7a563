"""Restored state is where the parameters are, on whatever device; saved dtypes stay."""

import pytest
import torch
from torch import nn

from pathline.training import players
from pathline.training.device import pick_precision
from pathline.training.ema import exponential
from pathline.training.optim import adamw, muon
from pathline.training.players import Player, lane_rng, restore, state_of, tensors_of, update
from pathline.types import Batch, Cond

CPU = torch.device("cpu")
OPTIMIZERS = {"adamw": adamw, "muon": muon}


class Block(nn.Module):
    """Matrices for muon, and biases for its AdamW."""

    def __init__(self, device):
        super().__init__()
        self.mlp = nn.Linear(4, 4, device=device)
        self.embed = nn.Linear(4, 4, device=device)

    def forward(self, x):
        return self.embed(self.mlp(x))


def loss(network, batch, rng):
    noise = torch.randn(batch.x1.shape, generator=rng, device=batch.x1.device)
    value = (network(batch.x1) - noise).square().mean()
    return value, {"mse": value.detach()}


def player(optimizer, device=CPU, seed=0):
    torch.manual_seed(seed)
    network = Block(device)
    precision = pick_precision("fp32", CPU)
    emas = [exponential(network, 0.9)]
    made = OPTIMIZERS[optimizer](network, lr=0.01)
    return Player("network", network, network, made, loss, lambda _: 1.0, precision, emas=emas)


def lane(n, device=CPU):
    x1 = torch.randn(6, 4, generator=torch.Generator().manual_seed(n)).to(device)
    return Batch(x1, Cond(), Cond(), torch.arange(6)), lane_rng(0, n, 0, device)


def on_meta(optimizer):
    """A player whose parameters are on a second device, which needs no hardware.

    The optimizer is built on the CPU, for fused ones refuse the device `meta`.
    """
    mine = player(optimizer)
    elsewhere = {name: nn.Parameter(p.to("meta")) for name, p in mine.network.named_parameters()}
    by_name = dict(mine.network.named_parameters())
    moved = {by_name[name]: p for name, p in elsewhere.items()}
    for group in mine.optimizer.param_groups:
        group["params"] = [moved[p] for p in group["params"]]
    for name, p in elsewhere.items():
        module, _, leaf = name.rpartition(".")
        setattr(mine.network.get_submodule(module), leaf, p)
    mine.emas = [exponential(mine.network, 0.9)]
    return mine


def devices_after_restore(optimizer):
    """(kind, device, dtype) of everything a restore puts into a player on `meta`."""
    saved = player(optimizer)
    update(saved, [lane(0)], 0)
    mine = on_meta(optimizer)
    restore(mine, tensors_of(saved), state_of(saved))
    state = [item for of in mine.optimizer.state.values() for item in of.items()]
    state += [("average", weight) for weight in mine.emas[0].weights.values()]
    state += [("weight", p) for p in mine.network.parameters()]
    return [(kind, value.device.type, value.dtype) for kind, value in state]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_everything_is_put_where_the_parameters_are(optimizer):
    places = devices_after_restore(optimizer)
    assert {device for _, device, _ in places} == {"meta"}
    assert {"exp_avg", "exp_avg_sq", "step"} <= {kind for kind, *_ in places}
    assert ("momentum_buffer" in {kind for kind, *_ in places}) == (optimizer == "muon")


def test_moments_that_stay_where_they_were_read_are_noticed(monkeypatch):
    """The control: without the move, the test above fails."""
    monkeypatch.setattr(players, "placed", lambda value, _: value)
    monkeypatch.setattr(torch.Tensor, "to", lambda value, *_, **__: value)
    saved = player("adamw")
    update(saved, [lane(0)], 0)
    mine = on_meta("adamw")
    players._restore_optimizer(mine, tensors_of(saved)["network-optimizer"])
    kept = {value.device.type for of in mine.optimizer.state.values() for value in of.values()}
    assert kept == {"cpu"}


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("fused", [True, False])
def test_a_moment_of_any_shape_is_moved_and_a_counter_where_its_optimizer_reads_it(shape, fused):
    mine = on_meta("adamw")
    for group in mine.optimizer.param_groups:
        group["fused"] = fused
    moment = torch.zeros(shape, dtype=torch.float64)
    players._restore_optimizer(mine, {"mlp.weight/moment": moment})
    (restored,) = mine.optimizer.state[mine.network.mlp.weight].values()
    assert restored.device.type == ("meta" if fused or shape else "cpu")
    assert (restored.dtype, restored.shape) == (torch.float64, shape)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_player_on_a_gpu_goes_on_from_tensors_on_the_cpu_bit_for_bit(optimizer):
    gpu = torch.device("cuda")
    straight, first, second = (player(optimizer, gpu, seed) for seed in (0, 0, 1))
    for n in range(4):
        update(straight, [lane(n, gpu)], n)
    for n in range(2):
        update(first, [lane(n, gpu)], n)
    saved = {file: {k: v.cpu() for k, v in of.items()} for file, of in tensors_of(first).items()}
    restore(second, saved, state_of(first))
    for n in range(2, 4):
        update(second, [lane(n, gpu)], n)
    one, two = tensors_of(straight), tensors_of(second)
    assert all(torch.equal(one[file][key], two[file][key]) for file in one for key in one[file])
