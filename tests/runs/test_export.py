"""Exported weights come back: sampled from alone, and as the beginning of another training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pathline.cli import main
from pathline.runs.folder import open_run

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "train.sample_every=0", "train.validate_every=0", "train.updates=2"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with its exported weights, away.safetensors."""
    folder = tmp_path_factory.mktemp("export")
    assert main(["train", "debug", *TINY, "--out", str(folder / "run")]) == 0
    assert main(["export", str(folder / "run"), "--out", str(folder / "away.safetensors")]) == 0
    return folder


def pixels(folder):
    (file,) = Path(folder).glob("*.png")
    return np.asarray(Image.open(file))


def test_exported_weights_sample_as_the_run_does(run, tmp_path):
    alone = tmp_path / "elsewhere" / "away.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((run / "away.safetensors").read_bytes())
    for name, source in (("by_run", run / "run"), ("by_file", alone)):
        words = ["generate", str(source), "steps=2", "--n", "1", "--out", str(tmp_path / name)]
        assert main(words) == 0
    assert np.array_equal(pixels(tmp_path / "by_run"), pixels(tmp_path / "by_file"))
    info = Image.open(next((tmp_path / "by_file").glob("*.png"))).text
    assert json.loads(info["pathline"])["checkpoint"] == "away.safetensors"


def test_a_training_begins_with_exported_weights(run, tmp_path, capfd):
    out = tmp_path / "next"
    words = ["train", "debug", *TINY, f"init={run / 'away.safetensors'}", "--out", str(out)]
    assert main([*words, "optimizer.lr=1e-30"]) == 0
    assert "(EMA 0.9, update 2)" in capfd.readouterr().out
    before = load_file(run / "away.safetensors")
    after = load_file(out / "checkpoints/step-00000002/network.safetensors")
    assert all(torch.allclose(after[name], x) for name, x in before.items())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "can't be opened as weights"),
        (lambda file: save_file(load_file(file), file), "it has no 'run'"),
        (lambda file: file.write_text("hello"), "can't be opened as weights"),
    ],
)
def test_a_file_that_is_no_export_is_refused(run, tmp_path, capfd, harm, words):
    file = tmp_path / "away.safetensors"
    file.write_bytes((run / "away.safetensors").read_bytes())
    harm(file)
    assert main(["generate", str(file)]) == 2
    assert words in capfd.readouterr().err
    assert main(["train", "debug", *TINY, f"init={file}"]) == 2


def test_an_average_of_a_file_is_refused_that_has_one(run, capfd):
    assert main(["generate", str(run / "away.safetensors"), "--ema", "0.5"]) == 2
    assert "has one set of weights, EMA 0.9" in capfd.readouterr().err


def test_the_file_says_what_it_holds(run):
    opened = open_run(run / "away.safetensors", print)
    assert opened.update == 2
    assert opened.exported == "EMA 0.9"
    assert opened.run.backbone.options["width"] == 16


@pytest.mark.parametrize(
    ("out", "words"), [("away.safetensors", "exists"), ("away.bin", "does not end in")]
)
def test_export_overwrites_nothing(run, capfd, out, words):
    before = (run / "away.safetensors").read_bytes()
    assert main(["export", str(run / "run"), "--out", str(run / out)]) == 2
    assert words in capfd.readouterr().err
    assert (run / "away.safetensors").read_bytes() == before


def test_a_full_disk_leaves_no_part_of_an_export(run, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathline.recipes.export.save_file", full)
    assert main(["export", str(run / "run"), "--out", str(run / "full.safetensors")]) == 2
    assert "full.safetensors can't be written because the disk is full" in capfd.readouterr().err
    assert not list(run.glob("*full*"))


@pytest.mark.parametrize("words", [["generate", "--n", "1"], ["eval", "--n", "2"], ["export"]])
def test_weights_that_are_not_finite_are_refused_with_exit_3(run, tmp_path, capfd, words):
    """They would draw black pictures, and be measured."""
    from pathline.training import checkpoint

    saved = checkpoint.load(run / "run/checkpoints/step-00000002")
    ruined = tmp_path / "ruined"
    ruined.mkdir()
    texts = {}
    for name in ("run.yaml", "facts.json"):
        texts[name] = (run / "run" / name).read_text()
        (ruined / name).write_text(texts[name])
    name = sorted(saved.tensors["network-ema-0.9"])[0]
    saved.tensors["network-ema-0.9"][name].view(-1)[0] = float("nan")
    checkpoint.save(ruined / "checkpoints", 2, saved.tensors, saved.state, texts)
    out = [] if words[0] != "export" else ["--out", str(tmp_path / "x.safetensors")]
    assert main([words[0], str(ruined), *words[1:], *out]) == 3
    error = capfd.readouterr().err
    assert f"{name} has NaN or infinity in it" in error
    assert "step-00000002" in error
    assert not (ruined / "pictures").exists()
    assert not (tmp_path / "x.safetensors").exists()
