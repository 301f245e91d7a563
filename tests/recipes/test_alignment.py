"""Alignment as a person runs it: from pictures or a cache, stopped, resumed, drawn from alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from pathline.assemble import assemble
from pathline.cli import main
from pathline.config.pick import function_of
from pathline.config.resolve import read as settings
from pathline.data.cache.reader import read
from pathline.runs import folder as runs
from pathline.runs.dataset import first_rows
from pathline.runs.feed import batch_of, flow_feeder, load_data
from pathline.runs.from_cache import adopt_cache
from pathline.tables import TABLES
from pathline.training.loop import Progress

CPU = torch.device("cpu")
NET = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "train.sample_every=0", "train.validate_every=0", "train.probe_every=0"),
]
CACHED = ["backbone=stream_dit", "backbone.patch=4", "objective.prediction=x1", "data.flip=true"]
MADE = [
    "data.size=16",
    "data.buckets.max_ratio=2",
    "backbone.patch=4",
    "text=none",
    "data.flip=true",
]
TERM = "terms.alignment.weight=0.5"


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """A small random DINOv2, as it lies on a disk."""
    transformers = pytest.importorskip("transformers")
    where = tmp_path_factory.mktemp("eyes")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**sizes, image_size=16, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.Dinov2Model(config)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    network.save_pretrained(where)
    told = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    (where / "preprocessor_config.json").write_text(told)
    return where


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def seen_by(eyes, size=16):
    return ["vision=encoder", f"vision.path={eyes}", f"vision.size={size}"]


def train(*more):
    return main(["train", *map(str, more)])


def opened(*given):
    asked = settings(given[0], overrides=[str(one) for one in given[1:]])
    run, facts, data_for = load_data(adopt_cache(asked), None, Console(quiet=True))
    parts = assemble(run, facts)
    return run, parts, data_for(parts)


def numbers(run):
    lines = (json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "term/mse" in line]


def test_hidden_states_come_to_show_what_the_encoder_says(eyes):
    term = [TERM, "terms.alignment.standardise=0", "schedule=constant", "optimizer.lr=0.005"]
    given = ["train.updates=30", "train.log_every=5", *NET, *term, *seen_by(eyes)]
    assert train("digits", *given, "--out", "run") == 0
    told = [line["term/alignment"] for line in numbers("run")]
    assert told[-1] < 0.6 * told[0]


def test_a_run_stops_aligning_goes_on_bit_for_bit_and_draws_without_the_encoder(
    eyes, tmp_path, capfd
):
    shutil.copytree(eyes, tmp_path / "eyes")
    term = [TERM, "terms.alignment.until=3", "terms.alignment.projector=mlp"]
    term += ["terms.alignment.width=8", "train.log_every=2", "schedule=constant"]
    given = ["digits", *NET, *term, *seen_by("eyes"), "train.save_every=2"]
    assert train(*given, "train.updates=6", "--out", "whole") == 0
    assert train(*given, "train.updates=2", "--out", "parts") == 0
    assert train("--resume", "parts", "train.updates=4") == 0
    assert train("--resume", "parts", "train.updates=6") == 0
    one, two = (Path(run, "checkpoints", "step-00000006") for run in ("whole", "parts"))
    for file in one.glob("*.safetensors"):
        mine, theirs = load_file(file), load_file(two / file.name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
        assert [name for name in mine if name.startswith("projector.")]
    assert ["term/alignment" in line for line in numbers("whole")] == [True, True, False]
    shutil.rmtree("eyes")
    assert main(["generate", "whole", "3", "--out", "drawn"]) == 0
    assert list(Path("drawn").glob("*.png"))
    assert main(["eval", "whole", "--n", "8", "--feature", "pca", "--steps", "2"]) == 0
    assert main(["export", "whole", "--out", "one.safetensors"]) == 0
    assert [name for name in load_file("one.safetensors") if name.startswith("projector.")]
    capfd.readouterr()
    assert train("--resume", "whole", "train.updates=8") == 2
    assert "vision.path=eyes is wrong because there is no such folder" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_that_gather_gradients_go_on_after_the_stop_as_one_would(eyes, strategy):
    term = [TERM, "terms.alignment.until=2", "train.log_every=1", "schedule=constant"]
    given = ["digits", *NET, *term, *seen_by(eyes), "train.updates=4"]
    assert train(*given, "train.accumulate=2", "--out", "one") == 0
    command = [sys.executable, "-m", "pathline", "train", *given, f"train.strategy={strategy}"]
    subprocess.run([*command, "--procs=2", "--out", "two"], check=True, timeout=300)
    for mine, theirs in zip(numbers("one"), numbers("two"), strict=True):
        assert ("term/alignment" in mine) == ("term/alignment" in theirs) == (mine["update"] < 3)
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)


def test_the_encoder_sees_the_pixels_that_are_trained_on_and_rests_after_the_stop(eyes):
    term = [TERM, "terms.alignment.until=3", "data.flip=true"]
    run, parts, data = opened("digits", *NET, *term, *seen_by(eyes))
    vision = function_of(TABLES["vision"]["encoder"])(path=str(eyes), size=16)
    rows = first_rows(data, 4)
    flips = torch.tensor([True, False, True, False])
    pixels = data.pixels(rows)
    mirrored = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    batch = batch_of(data, rows, CPU, flips=flips, with_features=True)
    torch.testing.assert_close(batch.features, vision.encode(mirrored))
    assert parts.facts.vision == vision.id
    assert batch_of(data, rows, CPU).features is None
    feed = flow_feeder(run, data, CPU)
    there = [feed(Progress(n, 8 * n))[0][0].features is not None for n in range(5)]
    assert there == [True, True, True, False, False]


def pictures(where):
    where.mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        size = [(20, 12), (12, 20), (16, 16)][number % 3]
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{number}.png")


def preprocess(*more):
    return main(["preprocess", "set", *MADE, *map(str, more), "--out", "cache"])


def test_a_cache_holds_the_features_of_its_own_pixels(eyes, tmp_path, capfd):
    pictures(tmp_path / "set")
    upscale = "data.buckets.upscale=2"
    assert preprocess(upscale) == 0
    before = {file.name: file.stat().st_mtime_ns for file in Path("cache/latents").iterdir()}
    assert preprocess(upscale, *seen_by(eyes, size=32)) == 0
    assert "0 of them encoded now, features of 9 pictures" in capfd.readouterr().out
    assert before == {f.name: f.stat().st_mtime_ns for f in Path("cache/latents").iterdir()}
    cache = read(Path("cache"))
    vision = function_of(TABLES["vision"]["encoder"])(path=str(eyes), size=32)
    assert (cache.vision, cache.vision_width) == (vision.id, 12)
    assert cache.features is not None
    for row in torch.arange(9)[:, None]:
        pixels = cache.latents(row, None).add(1).mul(127.5).round().to(torch.uint8)
        for flip in (torch.tensor([False]), torch.tensor([True])):
            shown = pixels.flip(-1) if flip else pixels
            kept = cache.features(row, flip)
            torch.testing.assert_close(kept, vision.encode(shown), rtol=0.02, atol=0.02)
    assert len({cache.features(row, None).shape for row in torch.arange(9)[:, None]}) == 3

    given = ["own-large", "data.cache=cache", *NET, *CACHED[:3], TERM, "train.updates=2"]
    assert train(*given, "--out", "run") == 0
    facts = runs.open_run(Path("run"), print).facts
    assert (facts.vision, facts.vision_width) == (vision.id, 12)
    assert settings(base=Path("run", runs.SETTINGS)).run.vision.options["path"] == str(eyes)

    capfd.readouterr()
    assert train(*given, "vision=encoder", f"vision.path={eyes}", "vision.size=8") == 2
    assert "features were made with vision=encoder" in capfd.readouterr().err
    assert preprocess(upscale, *seen_by(eyes, size=24)) == 0
    assert "all features are made again" in capfd.readouterr().out.replace("\n", " ")
    assert preprocess(upscale) == 0
    assert not list(Path("cache/features").iterdir())
    assert read(Path("cache")).features is None
    capfd.readouterr()
    assert train(*given) == 2
    assert "terms.alignment is wrong because it needs features" in capfd.readouterr().err
    assert train(*given, *seen_by(eyes)) == 2
    assert "it holds no features" in capfd.readouterr().err
