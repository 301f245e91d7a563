"""What happens between updates."""

import json
from pathlib import Path

from pathline.cli import main

TINY = [
    *("backbone.width=32", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=64", "train.updates=60", "train.log_every=20", "train.validate_every=60"),
    *("train.sample_every=0", "train.ema=[0]", "data.holdout=0.2"),
]
X1 = ["objective.prediction=x1", "objective.floor=0.05", "times.mean=-0.8", "times.std=0.8"]


def last(name):
    lines = map(json.loads, Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line][-1]


def test_the_validation_loss_can_be_compared_with_the_training_loss(tmp_path, monkeypatch):
    """The mean over fixed times can not: of an x1-prediction it is mostly that of t = 0.95."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *TINY, *X1, "--out", "run"]) == 0
    assert 0.7 < last("val/loss") / last("loss") < 1.4
    assert last("val/t=0.95") > 3 * last("loss")


def test_few_held_out_pictures_are_read_with_several_noises(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = [setting for setting in TINY if "holdout" not in setting]
    assert main(["train", "digits", *few, *X1, "data.holdout=0.003", "--out", "run"]) == 0
    assert 0.6 < last("val/loss") / last("loss") < 1.7
