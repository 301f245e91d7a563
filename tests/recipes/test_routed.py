"""A training with a route: resumed to the last bit, judged on all tokens, and like any other."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pathline.cli import main
from pathline.evaluation import training as beside
from pathline.training import checkpoint, loop

ENDS = ("backbone.depth=3", "backbone.route_before=1", "backbone.route_after=1")
TINY = [
    *("backbone.width=16", "backbone.heads=2", "train.precision=fp32", *ENDS),
    *("train.batch=512", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    return main(["train", "digits", *TINY, *arguments])


def weights(run, update):
    return load_file(Path(run) / "checkpoints" / checkpoint.name(update) / "network.safetensors")


def losses(run):
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize("route", [pytest.param("tread", marks=pytest.mark.slow), "sprint"])
def test_a_resumed_training_leaves_out_what_it_would_have(route, monkeypatch):
    way = (f"backbone.route={route}", "train.updates=3")
    assert train(*way, "--out", "straight") == 0
    real = loop.update

    def interrupted(player, lanes, n):
        if n == 1:
            signal.raise_signal(signal.SIGINT)
        return real(player, lanes, n)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupted)
        assert train(*way, "--out", "parts") == 130
    assert main(["train", "--resume", "parts"]) == 0
    one, two = weights("straight", 3), weights("parts", 3)
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert losses("straight") == losses("parts")


def test_a_route_is_for_training_alone(monkeypatch):
    """Share 0 and no route differ in noise only; a held-out loss sees every token."""
    given = []
    validator = beside.validator

    def watched(player, loss_at, *more, **ways):
        player.network.register_forward_pre_hook(
            lambda _, inputs: given.append(inputs[3].route if inputs[3:] else None)
        )
        return validator(player, loss_at, *more, **ways)

    monkeypatch.setattr(beside, "validator", watched)
    assert train("backbone.route=tread", "train.updates=2", "train.validate_every=2") == 0
    routes = [route is not None for route in given]
    assert routes[:2] == [True, True]
    assert len(routes) > 2
    assert not any(routes[2:])


def test_no_route_is_what_it_was():
    """Its settings are heard by nobody then."""
    assert train("train.updates=2", "--out", "one") == 0
    assert train("train.updates=2", "backbone.route_share=0.3", "--out", "two") == 0
    assert train("train.updates=2", "backbone.route=tread", "--out", "three") == 0
    assert losses("one") == losses("two")
    assert losses("one") != losses("three")


@pytest.mark.slow
@pytest.mark.parametrize("route", ["tread", "sprint"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_as_one(route, strategy):
    ways = (f"backbone.route={route}", "train.updates=3")
    two = [*TINY, *ways, f"train.strategy={strategy}", "--procs=2", "--out", "two"]
    subprocess.run([sys.executable, "-m", "pathline", "train", "digits", *two], check=True)
    assert train(*ways, "train.accumulate=2", "--out", "one") == 0
    assert losses("two") == pytest.approx(losses("one"), rel=1e-5)
