"""`pathline eval`: results that say how they were got, files that stay, words for bad input."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from pathline.evaluation.plots import Spot, abscissa
from pathline.images import gif, save_sheet
from pathline.metrics.features import FEATURES
from pathline.recipes.eval import evaluate
from pathline.recipes.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four updates on the digits: nothing to look at, all there is to measure."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny = ["data.holdout=0.2", "train.updates=4", "train.validate_every=0", "train.save_every=4"]
    tiny += ["schedule.warmup=0", "optimizer.lr=0.02"]  # guidance must change something
    assert train("debug", *tiny, "train.sample_every=0", out=folder, device="cpu") == 0
    return folder


def folder_of(root, pixels):
    root.mkdir()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture[0].numpy()).save(root / f"{index:04d}.png")
    return root


def results(file):
    return json.loads(file.read_text())["results"]


@pytest.mark.slow
def test_the_same_numbers_come_from_one_and_two_processes(run, tmp_path):
    asked = ["eval", str(run), "--n", "21", "--steps", "3", "--json", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    commands = {
        "one": [sys.executable, "-m", "pathline"],
        "two": [*torchrun, "--nproc-per-node=2", "-m", "--", "pathline"],
    }
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, command in commands.items():
        subprocess.run([*command, *asked, tmp_path / name], env=env, check=True, timeout=120)
    one, two = (results(tmp_path / name / "eval-0001.json") for name in commands)
    assert one == two


def test_a_result_says_how_it_was_got_and_none_is_overwritten(run, tmp_path, capsys):
    first, again = ({"n": 12, "steps": 2, "seed": 3, "out": tmp_path} for _ in range(2))
    assert evaluate(run, **first) == 0
    assert evaluate(run, **again) == 0
    (one,), (two,) = results(tmp_path / "eval-0001.json"), results(tmp_path / "eval-0002.json")
    assert one == two
    wanted = {"n": 12, "seed": 3, "steps": 2, "solver": "euler", "grid": "uniform"}
    assert {key: one[key] for key in wanted} == wanted
    assert one["weights"] == "EMA 0.9"
    assert one["guidance"] == {"name": "cfg", "scale": 1.0}
    assert one["reference"] == "training images of debug"
    (feature,) = one["features"]
    assert feature["feature"] == "pca-64"
    assert feature["scores"].keys() >= {"FD-pca", "kid", "nearest_ratio", "diversity"}
    assert feature["baseline"]["FD-pca"] < feature["scores"]["FD-pca"]
    assert feature["reference_n"] == feature["baseline_n"] == 12
    assert "held_out" not in feature
    assert any(text.startswith("no distance to held-out") for text in feature["cautions"])
    printed = capsys.readouterr().out
    for word in ("n 12", "seed 3", "2 steps", "euler", "EMA 0.9", "pca-64", "real against real"):
        assert word in printed


def test_a_sweep_gives_every_combination_a_table_and_curves(run, tmp_path, capsys):
    sweep = ["guidance=1,2", "steps=1,2"]
    options = {"feature": ["pca"], "metric": "kid"}
    assert (
        evaluate(run, "pca.width=5", "solver=heun", n=8, sweep=sweep, out=tmp_path, **options) == 0
    )
    found = results(tmp_path / "sweep-0001.json")
    settings = [{"guidance": g, "steps": s} for g in "12" for s in "12"]
    assert [one["setting"] for one in found] == settings
    assert [one["guidance"]["scale"] for one in found] == [1, 1, 2, 2]
    assert {one["solver"] for one in found} == {"heun"}
    assert {one["features"][0]["feature"] for one in found} == {"pca-5"}
    assert len({one["features"][0]["scores"]["FD-pca"] for one in found}) == 4
    with Image.open(tmp_path / "sweep-0001.png") as picture:
        assert picture.width > 900
    best = min(found, key=lambda one: one["features"][0]["scores"]["kid"])["setting"]
    said = capsys.readouterr().out
    assert f"best kid: guidance={best['guidance']} steps={best['steps']}" in said


def test_labels_are_read_by_the_classifier(run, tmp_path):
    words = ["classifier.updates=20", "n=20", "sample.steps=1", "eval.metric=fid"]
    assert evaluate(run, *words, out=tmp_path, json=True) == 0
    (one,) = results(tmp_path / "eval-0001.json")
    assert (one["n"], one["steps"]) == (20, 1)
    assert 0 <= one["features"][0]["scores"]["accuracy"] < 0.6  # four updates teach nothing
    assert "held-out accuracy" in one["features"][0]["note"]


def test_two_folders_and_a_folder_against_a_run(run, pixels, tmp_path):
    drawn, real = folder_of(tmp_path / "a", pixels[:9]), folder_of(tmp_path / "b", pixels[9:40])
    assert evaluate(drawn, real, out=tmp_path / "out") == 0
    assert evaluate(drawn, reference=run, out=tmp_path / "out") == 0
    (one,), (two,) = (results(tmp_path / "out" / f"eval-000{n}.json") for n in (1, 2))
    assert one["n"] == two["n"] == 9
    assert one["features"][0]["reference_n"] == 9
    assert two["reference"] == "training images of debug"
    assert two["features"][0]["scores"]["FD-pca"] < 3 * two["features"][0]["baseline"]["FD-pca"]
    assert not list(drawn.glob("*.json"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 1}, "1 sampled image: .* from 2 on"),
        ({"feature": ["pcaa"]}, "Did you mean 'pca'"),
        ({"metric": "frechett"}, "Did you mean 'frechet'"),
        ({"metric": "accuracy"}, "metric=accuracy is wrong"),
        ({"words": ["pca.with=3"]}, "Did you mean 'width'"),
        ({"words": ["pca=3"]}, "write FEATURE.OPTION=VALUE"),
        ({"words": ["seed=3"]}, "Write --seed 3"),
        ({"words": ["stps=3"]}, "stps is no sampling setting. Did you mean 'steps'"),
        ({"words": ["train.updates=3"]}, "can't be changed after training"),
        ({"words": ["eval.m=3"]}, "eval.m is not a setting"),
        ({"words": ["steps=4"], "sweep": ["steps=3,4"]}, "set it once"),
        ({"sweep": ["steps"]}, "no axis of a sweep"),
        ({"sweep": ["step=3,4"]}, "Did you mean 'steps'"),
        ({"sweep": ["steps=3,4"], "steps": 3}, "set it once"),
        ({"sweep": ["ema=half"]}, "ema=half is no number"),
        ({"ema": 0.3}, "ema=0.3 is wrong because this run keeps no such EMA"),
        ({"solver": "jump"}, "average velocities"),
        ({"size": 9}, "--size is for folders"),
    ],
)
def test_what_a_run_cannot_be_asked(run, options, told):
    options = dict(options)
    with pytest.raises(ValueError, match=told):
        evaluate(run, *options.pop("words", []), **{"n": 8, **options})


@pytest.mark.parametrize("metric", ["fid", "FID", "fd", "frechet", "FD-pca", "fd-pca"])
def test_the_frechet_distance_is_ranked_by_any_of_its_names(run, tmp_path, capsys, metric):
    """Table, JSON and curves call it by its feature; FID is that of Inception's features."""
    assert evaluate(run, n=6, metric=metric, sweep=["steps=1,2"], out=tmp_path) == 0
    assert "best FD-pca: steps=" in capsys.readouterr().out
    assert {*results(tmp_path / "sweep-0001.json")[0]["features"][0]["baseline"]} >= {"FD-pca"}
    assert FEATURES["inception"].frechet_name == "FID"


def test_sheets_are_no_samples(pixels, tmp_path):
    drawn, real = folder_of(tmp_path / "a", pixels[:9]), folder_of(tmp_path / "b", pixels[9:40])
    save_sheet(Image.new("RGB", (300, 300)), drawn / "sheet.png", {"seed": 1})
    save_sheet(Image.new("RGB", (300, 300)), drawn / "sheet-2.png")
    gif([Image.new("RGB", (300, 300))] * 2, drawn / "trajectory.gif")
    assert evaluate(drawn, real, out=tmp_path / "out") == 0
    assert results(tmp_path / "out" / "eval-0001.json")[0]["n"] == 9


def test_folders_that_cannot_be_compared(run, pixels, tmp_path):
    one, few = folder_of(tmp_path / "one", pixels[:1]), folder_of(tmp_path / "few", pixels[:4])
    mixed, empty = folder_of(tmp_path / "mixed", pixels[:2]), tmp_path / "empty"
    empty.mkdir()
    Image.new("L", (9, 8)).save(mixed / "z.png")
    large = tmp_path / "large"
    large.mkdir()
    for name in "ab":
        Image.new("L", (16, 16)).save(large / f"{name}.png")
    told = {
        "1 sampled image:": (one, few, {}),
        "1 reference .* image": (few, one, {}),
        "holds no picture": (empty, few, {}),
        "z.png is 9x8, not 8x8": (mixed, few, {}),
        "a.png is 16x16, not 8x8": (large, run, {}),
        "is not the size|are 16x16": (large, run, {"size": 16}),
        "give the real ones too": (few, None, {}),
        "fwe; next to it are .*few": (tmp_path / "fwe", one, {}),
        "nowhere; next to it are": (few, tmp_path / "nowhere", {}),
        "--steps is for sampling from a run": (few, one, {"steps": 3}),
        "--n 9 is more than the 4 images": (few, few, {"n": 9}),
    }
    for words, (drawn, real, options) in told.items():
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            evaluate(drawn, *([real] if real else []), **options)
    with pytest.raises(ValueError, match="once"):
        evaluate(few, few, reference=few)


def test_the_axis_of_numbers_with_most_values_lies_to_the_right():
    def spots(**axes):
        return [
            Spot(dict(zip(axes, values, strict=True)), {})
            for values in zip(*axes.values(), strict=True)
        ]

    assert abscissa(spots(guidance=["1", "1", "2"], steps=["4", "8", "20"])) == "steps"
    assert abscissa(spots(solver=["euler", "heun", "rk4"], steps=["4", "8", "8"])) == "steps"
    assert abscissa(spots(solver=["euler", "heun"])) == "solver"
