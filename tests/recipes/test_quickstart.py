"""The quickstart from end to end, at a size that shows only that it runs and what it says."""

import os
import signal

from pathline.cli import main
from pathline.errors import INTERRUPTED
from pathline.training import checkpoint

TINY = (
    *("train.updates=2", "train.save_every=2", "train.sample_every=0", "train.precision=fp32"),
    *("data.source.count=64", "sample.steps=1", "sample.guidance.scale=1", "backbone.depth=1"),
)


def test_it_trains_draws_scores_and_says_what_to_try(tmp_path, capfd):
    assert main(["quickstart", "--out", str(tmp_path / "run"), *TINY]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "1.000 / 1.000" in told  # the detector on real images
    assert "in no training scene: blue circle, red triangle, yellow square" in told
    assert "pathline generate" in told
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"seen.png", "held_out.png", "run.yaml", "metrics.jsonl", "checkpoints"} <= left


def test_a_typo_is_told_before_anything_is_made(tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["quickstart", "--out", str(out), "train.udpates=2"]) == 2
    assert "Did you mean train.updates" in capfd.readouterr().err
    assert not out.exists()


def test_an_interrupted_one_ends_as_one(tmp_path, capfd, monkeypatch):
    out = tmp_path / "my run"
    saved = checkpoint.save

    def save_and_interrupt(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return saved(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_interrupt)
        code = main(["quickstart", "--out", str(out), *TINY, "train.save_every=1"])
    printed = capfd.readouterr().out
    assert code == INTERRUPTED
    assert f"go on with: pathline train --resume '{out}'" in printed
    assert main(["train", "--resume", str(out)]) == 0
    printed = capfd.readouterr().out
    assert "whole-scene" in printed
    assert f"pathline generate '{out}' 'a red circle left of a blue square' --n 4" in printed
    assert {"seen.png", "held_out.png"} <= {path.name for path in out.iterdir()}
