"""train.precision=auto on a CPU: the number format of the faster update, without a trace."""

import pytest
import torch
import yaml
from torch import nn

from pathline.cli import main
from pathline.training import team as module
from pathline.training.device import pick_precision
from pathline.training.optim import adamw
from pathline.training.players import Player
from pathline.training.team import Team, measured_precision
from pathline.types import Batch, Cond

CPU = torch.device("cpu")


def loss(network, batch, rng):
    noise = torch.randn(batch.x1.shape, generator=rng)
    value = (nn.functional.dropout(network(batch.x1)) - noise).square().mean()
    return value, {"mse": value.detach()}


@pytest.fixture
def team():
    network = nn.Linear(4, 4)
    player = Player(
        name="network",
        network=network,
        forward=network,
        optimizer=adamw(network, lr=0.01),
        loss=loss,
        rate=lambda _: 1.0,
        precision=pick_precision("fp32", CPU),
        emas=[],
    )
    return Team([player])


def batch():
    return Batch(torch.ones(6, 4), Cond(), Cond(), torch.arange(6))


@pytest.mark.parametrize(("bf16", "chosen"), [(0.9, "fp32"), (0.7, "bf16")])
def test_the_faster_update_decides(team, bf16, chosen, monkeypatch):
    """The first round, which warms up, does not count; of the others the fastest does."""
    rounds = {"fp32": [0.1, 1.0, 9.0, 3.0], "bf16": [9.0, 5.0, bf16, 5.0]}
    monkeypatch.setattr(module, "_pass_seconds", lambda _, __, p: rounds[p.name].pop(0))
    precision = measured_precision(team, batch())
    assert precision.name == chosen
    assert (
        precision.reason == f"measured for each update: fp32 1,000 ms, bf16 {1000 * bf16:,.0f} ms"
    )


def test_measuring_changes_nothing_of_the_training(team):
    weights = team.players[0].network.weight.detach().clone()
    state = torch.get_rng_state()
    measured_precision(team, batch())
    assert torch.equal(team.players[0].network.weight, weights)
    assert team.players[0].network.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def precision_of(run):
    return yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["train"]["precision"]


def test_a_resumed_run_keeps_the_precision_it_started_with(tmp_path, monkeypatch):
    """Even where the other one would be faster now."""
    rates = {"fp32": 1.0, "bf16": 0.5}
    monkeypatch.setattr(module, "_pass_seconds", lambda _, __, p: rates[p.name])
    run = tmp_path / "run"
    quiet = ["train.sample_every=0", "train.validate_every=0", "train.probe_every=0"]
    assert main(["train", "debug", "train.updates=1", *quiet, "--out", str(run)]) == 0
    assert precision_of(run) == "bf16"
    rates["bf16"] = 2.0
    assert main(["train", "--resume", str(run), "train.updates=2"]) == 0
    assert precision_of(run) == "bf16"
