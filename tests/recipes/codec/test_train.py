"""A codec's training as a person runs it, and the codec that comes of it."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pathline.codecs.losses import psnr
from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.own import trained
from pathline.config.pick import Pick, bind
from pathline.config.presets.codecs import CODEC_PRESETS
from pathline.config.run import Data, Run
from pathline.recipes.codec import train as recipe
from pathline.runs.dataset import split
from pathline.tables import TABLES
from pathline.training import checkpoint
from pathline.types import Facts

TINY = [
    *("network.width=8", "network.depth=1", "train.batch=16", "train.log_every=1"),
    *("train.validate_every=0", "train.sample_every=0", "data.holdout=0.1"),
]
SCENES = [*TINY, "data.source.count=40", "network.patch=4"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def codec(what=None, *overrides, out=None, **flags):
    flags = {"device": "cpu", **flags} if "resume" not in flags else flags
    return recipe.codec_train(what, *overrides, out=out and Path(out), **flags)


def tensors(run, update):
    folder = Path(run) / "checkpoints" / checkpoint.name(update)
    return {
        f"{file.stem}/{key}": value
        for file in folder.glob("*.safetensors")
        for key, value in load_file(file).items()
    }


def lines(run):
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


_stop = []


@pytest.fixture(autouse=True)
def _interrupter(monkeypatch):
    """Ctrl-C arrives while update number _stop[0] is computed."""
    from pathline.training import loop

    real = loop.update
    _stop[:] = []

    def update(player, lanes, n):
        if _stop and n + 1 == _stop[0]:
            _stop.clear()
            os.kill(os.getpid(), signal.SIGINT)
        return real(player, lanes, n)

    monkeypatch.setattr(loop, "update", update)


EVERYTHING = ["critic.weight=0.5", "critic.begin=4", "critic.width=8", "loss.edges=0.5"]
CHANGES = ["loss.noise=3", "loss.equivariance=0.5", "data.flip=true"]


@pytest.mark.parametrize(
    ("preset", "stops", "more"),
    [
        ("shapes-kl", [3], CHANGES),
        ("shapes-vq", [3], ["network.size=16", "network.dead=2"]),
        ("shapes-vq", [2, 5], [*EVERYTHING, "network.size=16", "network.dead=2"]),
        ("shapes-kl", [6], [*EVERYTHING, *CHANGES]),  # the critic learns already
        ("shapes-fsq", [4], ["train.batch=13"]),
    ],
)
def test_n_updates_are_k_and_resume_and_the_rest_bit_for_bit(preset, stops, more):
    settings = [*SCENES, "train.save_every=100", "train.updates=7", *more]
    assert codec(preset, *settings, out="straight") == 0
    _stop[:] = stops[:1]
    assert codec(preset, *settings, out="parts") == 130
    assert not Path("parts/codec.json").exists()
    for stop in stops[1:]:
        _stop[:] = [stop]
        assert codec(resume="parts") == 130
    assert codec(resume="parts") == 0
    one, two = tensors("straight", 7), tensors("parts", 7)
    assert one.keys() == two.keys()
    assert len(one) > 50
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    losses = [[(e["update"], e["loss"]) for e in lines(run)] for run in ("straight", "parts")]
    assert losses[0] == losses[1]
    texts = [Path(run, "codec.json").read_text() for run in ("straight", "parts")]
    assert texts[0] == texts[1]


def test_codes_are_revived_in_that_test_and_are_in_the_checkpoint():
    """The control of the test above: without its state a resumed codebook would be another."""
    settings = [*SCENES, "network.size=16", "network.dead=2", "train.updates=3"]
    assert codec("shapes-vq", *settings, out="run") == 0
    assert codec("shapes-vq", *settings, "network.dead=0", out="dead") == 0
    kept = tensors("run", 3)
    names = [f"network/bottleneck.{name}" for name in ("codes", "counts", "sums")]
    assert all(name in kept for name in names)
    assert not torch.equal(kept[names[0]], tensors("dead", 3)[names[0]])


def test_a_critic_learns_from_its_update_on_and_is_heard():
    settings = [*SCENES, *EVERYTHING, "train.updates=6"]
    assert codec("shapes-kl", *settings, out="run") == 0
    told = lines("run")
    assert ["critic/loss" in line for line in told] == [False] * 4 + [True] * 2
    assert ["term/critique" in line for line in told] == [False] * 4 + [True] * 2
    assert {"critic", "critic-optimizer"} <= {name.partition("/")[0] for name in tensors("run", 6)}


def test_psnr_codes_and_a_grid_are_kept():
    looks = ["train.validate_every=2", "train.sample_every=3", "train.updates=3"]
    assert codec("shapes-vq", *SCENES, *looks, out="run") == 0
    found = [line for line in lines("run") if "val/psnr" in line]
    assert [line["update"] for line in found] == [2, 3]
    assert all(1 <= line["val/perplexity"] <= line["val/codes_used"] for line in found)
    with Image.open("run/samples/rebuilt-00000003.png") as picture:
        assert picture.width > 4 * 96 > picture.height > 2 * 96  # four, each above its own


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A codec of scenes, trained a little longer."""
    out = tmp_path_factory.mktemp("codec") / "run"
    more = ["train.updates=60", "train.batch=8", "optimizer.lr=3e-3", "schedule.warmup=5"]
    assert codec("shapes-kl", *SCENES, *more, out=out) == 0
    return out


FACTS = Facts(3, 32, 32)


def test_a_run_is_a_codec(learnt):
    """Shapes, statistics of the training pictures, and a picture that comes back as it should."""
    made = bind(TABLES["codec"], Pick("trained", {"path": str(learnt)}), "codec")(FACTS)
    assert (made.channels, made.factor) == (4, 4)
    source = bind(TABLES["data.source"], Pick("shapes", {"count": 40}), "source")()
    pixels = torch.stack([source.read(row).image for row in range(40)])
    raw = made.encode(pixels)
    assert (raw.shape, raw.dtype) == ((40, 4, 8, 8), torch.float32)
    x1 = normalise(made, raw)
    assert x1.mean((0, 2, 3)).abs().max() < 0.2  # four of the forty are held out
    assert (x1.std((0, 2, 3)) - 1).abs().max() < 0.2
    back = made.decode(denormalise(made, x1))
    assert psnr(pixels, back).mean() > psnr(pixels, pixels.roll(1, 0)).mean() + 3
    assert made.encode(pixels[:1, :, :, :16]).shape == (1, 4, 8, 4)  # buckets
    measured = json.loads((learnt / "codec.json").read_text())["measured"]
    assert 10 < measured["val/psnr"] < 60


def test_the_statistics_are_those_of_the_training_latents(learnt):
    made, about = trained(FACTS, path=str(learnt)), json.loads((learnt / "codec.json").read_text())
    source = bind(TABLES["data.source"], Pick("shapes", {"count": 40}), "source")()
    rows, held = split(Run(data=Data(holdout=0.1)), 40)
    assert (len(rows), len(held)) == (36, 4)
    raw = made.encode(torch.stack([source.read(int(row)).image for row in rows])).double()
    torch.testing.assert_close(made.mean.double(), raw.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    spread = raw.std((0, 2, 3), correction=0)
    torch.testing.assert_close(made.std.double(), spread, atol=1e-5, rtol=1e-4)
    assert about["std"] == pytest.approx(spread.tolist(), rel=1e-4)


def test_what_is_known_without_weights_needs_none(learnt, tmp_path):
    (tmp_path / "codec.json").write_bytes((learnt / "codec.json").read_bytes())
    made = trained(FACTS, path=str(tmp_path))
    assert (made.channels, made.factor, made.id) == (4, 4, trained(FACTS, path=str(learnt)).id)
    with pytest.raises(FileNotFoundError, match="weights of this codec, is missing"):
        made.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_other_weights_are_another_codec(learnt, tmp_path):
    for name in ("codec.json", "codec.safetensors"):
        (tmp_path / name).write_bytes((learnt / name).read_bytes())
    file = tmp_path / "codec.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match="digest differs"):
        trained(FACTS, path=str(tmp_path)).encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    more = ["train.updates=61"]
    before = trained(FACTS, path=str(learnt)).id
    assert codec("shapes-kl", *SCENES, *more, "seed=1", "train.updates=1", out="other") == 0
    assert trained(FACTS, path="other").id != before


def test_a_finished_run_writes_its_codec_anew(capfd):
    assert codec("shapes-kl", *SCENES, "train.updates=2", out="run") == 0
    was = Path("run/codec.json").read_text()
    Path("run/codec.json").unlink()
    assert codec(resume="run") == 0
    assert "nothing is left to do" in capfd.readouterr().out
    assert Path("run/codec.json").read_text() == was


def test_a_diverging_run_exits_3_and_leaves_no_codec(capfd):
    code = codec("shapes-kl", *SCENES, "optimizer.lr=1e9", "train.updates=20", out="run")
    assert code == 3
    assert "not taken: network: the" in capfd.readouterr().out
    assert not Path("run/codec.json").exists()
    with pytest.raises(FileNotFoundError, match="training of this codec is not finished"):
        trained(FACTS, path="run")


def test_a_codebook_is_not_moved_by_an_update_that_is_not_taken():
    code = codec(
        "shapes-vq", *SCENES, "optimizer.lr=1e9", "train.updates=20", "train.clip=0", out="run"
    )
    assert code == 3
    update = int(sorted(Path("run/checkpoints").iterdir())[-1].name[5:])
    kept = tensors("run", update)
    assert all(v.isfinite().all() for k, v in kept.items() if "bottleneck" in k)


@pytest.mark.parametrize("name", CODEC_PRESETS)
def test_every_preset_is_built_trained_and_read(name):
    Path("mine").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 24), (40 * number, 90, 10)).save(f"mine/{number}.png")
    given = {
        "shapes": ["data.source.count=6"],
        "digits": ["data.holdout=0.9", "train.batch=64"],
        "emoji": ["data.source.path=mine"],
        "own": ["data.source=folder", "data.source.path=mine"],
    }[name.partition("-")[0]]
    tiny = ["network.width=8", "train.batch=2", "train.updates=2", "data.size=16", "data.holdout=0"]
    assert codec(name, *tiny, *given, out="run") == 0
    channels = CODEC_PRESETS[name].data.channels
    made = trained(Facts(channels, 16, 16), path="run")
    pixels = torch.zeros(1, channels, 16, 16, dtype=torch.uint8)
    assert made.decode(made.encode(pixels)).shape == pixels.shape
    assert Path("run/samples/rebuilt-00000002.png").is_file()


def test_a_folder_of_pictures_is_taken_as_it_is():
    Path("mine").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 24), (40 * number, 90, 10)).save(f"mine/{number}.png")
    tiny = ["network.width=8", "train.batch=2", "train.updates=1", "data.size=16", "data.holdout=0"]
    assert codec("mine", *tiny) == 0
    assert "path: mine" in Path("runs/mine-1/codec.yaml").read_text()
    assert codec("mine", *tiny, "train.updates=2", resume="latest") == 0  # of that name
    assert Path("runs/mine-1/checkpoints/step-00000002").is_dir()
