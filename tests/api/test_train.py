"""Training and scoring from a program: settings, numbers and errors are those of the commands."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

import pathline
from pathline.cli import main
from pathline.errors import PathlineError


def test_nested_and_dotted_settings_are_the_same(tiny, tmp_path):
    tiny = {**tiny, **{"train.updates": np.int64(1), "optimizer.lr": 1e-5}}
    flow = pathline.train("digits", out=str(tmp_path / "run"), quiet=True, **tiny)
    assert flow.settings["train"]["updates"] == 1
    assert flow.settings["optimizer"]["lr"] == 1e-5
    assert flow.settings["train"]["ema"] == [0.5, 0.9]


def test_training_is_that_of_the_command_to_the_bit(digits, tmp_path):
    typed = ["backbone.width=32", "backbone.depth=1", "backbone.heads=2", "train.ema=[0.5,0.9]"]
    typed += ["train.precision=fp32", "train.validate_every=0", "train.sample_every=0"]
    typed += ["train.updates=10", "sample.steps=3", "optimizer.lr=0.01", "schedule=constant"]
    typed += ["schedule.warmup=0"]
    assert main(["train", "digits", *typed, "--out", str(tmp_path / "run")]) == 0
    other = pathline.load(tmp_path / "run")
    weights, others = digits.parts.network.state_dict(), other.parts.network.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert digits.settings == other.settings


def test_quiet_prints_nothing(tiny, tmp_path, capfd):
    pathline.train("digits", out=tmp_path / "run", quiet=True, **tiny)
    assert capfd.readouterr() == ("", "")


def test_an_interruption_saves_and_the_run_goes_on(tiny, tmp_path):
    run = tmp_path / "run"
    tiny = {**tiny, "train": {**tiny["train"], "updates": 100_000, "log_every": 1}}

    def interrupt():
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"pathline.train\(resume="):
        pathline.train("digits", out=run, **tiny)
    saved = pathline.load(run)
    update = int(saved.checkpoint.name.removeprefix("step-"))
    assert update > 0
    flow = pathline.train(resume=run, train={"updates": update + 1})
    assert flow.checkpoint.name == f"step-{update + 1:08d}"


def test_a_training_may_run_in_a_thread(tiny, tmp_path):
    flows = []
    thread = threading.Thread(
        target=lambda: flows.append(pathline.train("digits", out=tmp_path / "run", **tiny))
    )
    thread.start()
    thread.join()
    assert flows[0].folder == tmp_path / "run"


def test_a_loss_that_is_not_finite_is_an_error_with_its_code(tiny, tmp_path):
    tiny = {**tiny, "train": {**tiny["train"], "updates": 50}, "optimizer": {"lr": 1e9}}
    with pytest.raises(PathlineError, match=r"not\s+finite") as raised:
        pathline.train("digits", out=tmp_path / "run", **tiny)
    assert raised.value.code == 3


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda out: pathline.train("digts", out=out), "Did you mean 'digits'"),
        (lambda out: pathline.train("digits", out=out, train={"updats": 1}), "train.updates"),
        (lambda out: pathline.train(out / "none", out=out), "no folder or file"),
        (lambda out: pathline.train("digits", resume="x", out=out), "."),
        (lambda out: pathline.evaluate(out), "Give a run, or a folder of images"),
    ],
)
def test_what_is_wrong_leaves_nothing(work, words, tmp_path):
    with pytest.raises(PathlineError, match=words) as raised:
        work(tmp_path / "out")
    assert raised.value.code == 2
    assert "command line" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_scores_are_those_of_the_command(digits, tmp_path, capfd):
    asked = ["n=16", "steps=2", "--seed", "3", "--out", str(tmp_path / "a"), "--json"]
    assert main(["eval", str(digits.folder), *asked]) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    scores = pathline.evaluate(digits, n=16, steps=2, seed=3, out=tmp_path / "b")
    assert scores.details["features"] == result["features"]
    assert dict(scores) == result["features"][0]["scores"]
    assert scores["kid"] > scores.real["kid"]
    assert len(list((tmp_path / "b").glob("eval*.json"))) == 1
    assert "kid" in scores._repr_html_()


def test_scores_of_a_second_feature_have_its_name():
    features = [
        {"feature": "pca", "scores": {"kid": 2.0}, "baseline": {"kid": 1.0}},
        {"feature": "clip", "scores": {"kid": 4.0}, "baseline": {}},
    ]
    scores = pathline.Scores({"features": features})
    assert scores == {"kid": 2.0, "clip.kid": 4.0}
    assert scores.real == {"kid": 1.0}


def test_scores_are_of_the_weights_that_were_loaded(digits):
    flow = pathline.load(digits.folder, ema=0)
    assert pathline.evaluate(flow, n=8, steps=1).details["weights"] == "weights"
