"""`pathline eval`: numbers that mean what they say, files that stay, words for bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.config.pick import Pick
from pathline.data.shapes import draw as draw_scene
from pathline.data.sources import digits
from pathline.grammar import caption
from pathline.recipes import measured
from pathline.recipes.adherence import SPLITS, _scenes, is_scenes, scene_scores, swapped
from pathline.recipes.curves import Spot, abscissa
from pathline.recipes.evaluate import evaluate
from pathline.recipes.measured import Reference, diversities, draw_shared, judge, score, some
from pathline.recipes.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four updates on the digits: nothing to look at, all there is to measure."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny = ["data.holdout=0.2", "train.updates=4", "train.validate_every=0", "train.save_every=4"]
    tiny += ["schedule.warmup=0", "optimizer.lr=0.02"]  # guidance must change something
    assert train("debug", *tiny, "train.sample_every=0", out=folder, device="cpu") == 0
    return folder


@pytest.fixture(scope="module")
def pixels():
    """In random order: the writers' hands change along the data set."""
    source = digits()
    return torch.stack([source.read(int(row)).image for row in some(source.count, 600, 0)])


def folder_of(root, pixels):
    root.mkdir()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture[0].numpy()).save(root / f"{index:04d}.png")
    return root


def results(file):
    return json.loads(file.read_text())["results"]


# --- sets of pictures -----------------------------------------------------------------------------


def test_the_reference_itself_is_perfect_new_real_pictures_are_good_and_negatives_are_not(pixels):
    judged = judge(Pick("pca"), Reference("digits", pixels[:400]), 200, 0, CPU)
    rows = some(400, 200, 0)  # the very pictures that the drawn ones are compared with
    same, new, bad = (
        score(judged, drawn, [], 0)["scores"]
        for drawn in (pixels[:400][rows], pixels[400:], 255 - pixels[400:])
    )
    assert same["frechet"] < 1e-6
    assert same["precision"] == same["recall"] == 1.0
    assert judged.baseline_n == 200
    assert new["frechet"] < 2 * judged.baseline["frechet"] < 0.1 * bad["frechet"]
    assert new["precision"] > 0.7 > bad["precision"]


def test_copies_of_training_pictures_are_found_out(pixels):
    train, held, new = pixels[:300], pixels[300:450], pixels[450:600]
    judged = judge(Pick("pca"), Reference("digits", train, held=held), 150, 0, CPU)
    assert score(judged, train[:150], [], 0)["scores"]["nearest_ratio"] < 0.1
    assert 0.8 < score(judged, new, [], 0)["scores"]["nearest_ratio"] < 1.2


def test_a_prompt_that_always_gives_one_picture_has_no_diversity(pixels):
    judged = judge(Pick("pca"), Reference("digits", pixels), 100, 0, CPU)
    same, different = pixels[:1].repeat(8, 1, 1, 1), pixels[:8]
    assert diversities(judged, {None: same})["diversity"] < 1e-6
    found = diversities(judged, {None: different})
    assert 0.3 < found["diversity"] < 1.2
    assert 0.3 < found["diversity_real"] < 1.2


def test_few_pictures_are_said_to_be_few(pixels):
    judged = judge(Pick("pca"), Reference("digits", pixels[:60]), 50, 0, CPU)
    said = " ".join(score(judged, pixels[100:150], [], 0)["cautions"])
    assert "biased" in said
    assert "30 pictures each, too few for 50" in said


def test_rows_are_repeated_only_after_all_were_taken():
    assert sorted(some(5, 5, 1).tolist()) == list(range(5))
    twelve = some(5, 12, 1).tolist()
    assert sorted(twelve[:10]) == sorted([*range(5), *range(5)])
    assert twelve != some(5, 12, 2).tolist()


# --- shared among processes -----------------------------------------------------------------------


def fake(items, seeds):
    return torch.tensor([[s % 251, int(i)] for i, s in zip(items, seeds, strict=True)]).byte()


@pytest.mark.parametrize(("n", "world"), [(21, 2), (3, 2), (64, 3), (1, 4)])
def test_shares_of_any_number_of_processes_are_the_whole(monkeypatch, n, world):
    items, seeds = [i % 10 for i in range(n)], list(range(7, 7 + n))
    alone = draw_shared(fake, items, seeds, batch=4)
    assert torch.equal(alone, fake(items, seeds))
    shares = []

    def gather(mine):
        shares.append(mine)
        return [mine] * world

    monkeypatch.setattr(measured, "gathered", gather)
    for rank in range(world):
        monkeypatch.setattr(measured, "place", lambda rank=rank: (rank, world))
        draw_shared(fake, items, seeds, batch=4)
    assert len({len(share) for share in shares}) == 1  # sharded weights are asked equally often
    monkeypatch.setattr(measured, "gathered", lambda _: shares)
    assert torch.equal(draw_shared(fake, items, seeds, batch=4), alone)


TWO = """
import sys, torch, torch.distributed as dist
from pathline.recipes.measured import draw_shared
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
calls = []
def draw(items, seeds):
    calls.append(len(items))
    return torch.tensor(seeds).view(-1, 1, 1, 1).byte()
pixels = draw_shared(draw, [None] * 21, list(range(21)), batch=8)
torch.save((pixels, calls), out + str(rank))
dist.destroy_process_group()
"""


@pytest.mark.slow  # two fresh processes import torch
def test_two_processes_draw_what_one_draws(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", TWO, str(rank), tmp_path / "store", tmp_path / "p"])
        for rank in range(2)
    ]
    assert [each.wait(timeout=120) for each in started] == [0, 0]
    wanted = torch.arange(21).view(-1, 1, 1, 1).byte()
    for rank in range(2):
        pixels, calls = torch.load(tmp_path / f"p{rank}")
        assert torch.equal(pixels, wanted)
        assert calls == [3, 3, 3, 3]  # seven batches: one is drawn twice and counted once


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


# --- captioned scenes -----------------------------------------------------------------------------


def test_pictures_as_asked_for_reach_the_ceiling():
    truth = {caption(s): draw_scene(s) for split in SPLITS for s in _scenes(split, 24).values()}

    def perfect(items, _):
        return torch.from_numpy(np.stack([truth[item] for item in items]))

    found = scene_scores(perfect, 24, 0)
    assert [found[split]["drawn"] for split in SPLITS] == [found[s]["ceiling"] for s in SPLITS]
    assert found["seen"]["drawn"]["exact"] == found["held_out"]["drawn"]["exact"] == 1.0
    assert found["seen"]["drawn"]["n"] == 24
    assert found["swapped"]["told_apart"] == 1.0


def test_a_model_deaf_to_order_is_found_out():
    truth = {}
    for scene in _scenes("seen", 24).values():
        truth[caption(scene)] = truth[caption(swapped(scene))] = draw_scene(scene)
    truth |= {caption(s): draw_scene(s) for s in _scenes("held_out", 24).values()}

    def deaf(items, _):
        return torch.from_numpy(np.stack([truth[item] for item in items]))

    found = scene_scores(deaf, 24, 0)
    assert found["seen"]["drawn"]["exact"] == 1.0
    assert found["swapped"]["drawn"]["exact"] == 0.0
    assert found["swapped"]["told_apart"] <= 0.5


def test_only_captions_of_scenes_are_scored_as_such():
    assert is_scenes(["a red circle", "a small blue square"], 32, 32)
    assert not is_scenes(["a red circle", "a photograph of a cat"], 32, 32)
    assert not is_scenes(["a red circle", None], 32, 32)
    assert not is_scenes(["a red circle"], 64, 64)
    assert not is_scenes([3], 32, 32)


# --- the command ----------------------------------------------------------------------------------


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
    assert one["reference"] == "training pictures of debug"
    (feature,) = one["features"]
    assert feature["feature"] == "pca-64"
    assert feature["scores"].keys() >= {"frechet", "kid", "nearest_ratio", "diversity"}
    assert feature["baseline"]["frechet"] < feature["scores"]["frechet"]
    assert feature["held_out_n"] == feature["reference_n"] == feature["baseline_n"] == 12
    printed = capsys.readouterr().out
    for word in ("n 12", "seed 3", "2 steps", "euler", "EMA 0.9", "pca-64", "real against real"):
        assert word in printed


def test_a_sweep_gives_every_combination_a_table_and_curves(run, tmp_path, capsys):
    sweep = ["guidance=1,2", "steps=1,2"]
    options = {"feature": ["pca"], "set": ["pca.width=5", "solver=heun"], "metric": "kid"}
    assert evaluate(run, n=8, sweep=sweep, out=tmp_path, **options) == 0
    found = results(tmp_path / "sweep-0001.json")
    settings = [{"guidance": g, "steps": s} for g in "12" for s in "12"]
    assert [one["setting"] for one in found] == settings
    assert [one["guidance"]["scale"] for one in found] == [1, 1, 2, 2]
    assert {one["solver"] for one in found} == {"heun"}
    assert {one["features"][0]["feature"] for one in found} == {"pca-5"}
    assert len({one["features"][0]["scores"]["frechet"] for one in found}) == 4
    with Image.open(tmp_path / "sweep-0001.png") as picture:
        assert picture.width > 900
    best = min(found, key=lambda one: one["features"][0]["scores"]["kid"])["setting"]
    said = capsys.readouterr().out
    assert f"best kid: guidance={best['guidance']} steps={best['steps']}" in said


def test_labels_are_read_by_the_classifier(run, tmp_path):
    short = ["classifier.updates=20"]
    assert evaluate(run, n=20, steps=1, set=short, out=tmp_path, json=True) == 0
    (one,) = results(tmp_path / "eval-0001.json")
    assert 0 <= one["features"][0]["scores"]["accuracy"] < 0.6  # four updates teach nothing
    assert "held-out accuracy" in one["features"][0]["note"]


def test_two_folders_and_a_folder_against_a_run(run, pixels, tmp_path):
    drawn, real = folder_of(tmp_path / "a", pixels[:9]), folder_of(tmp_path / "b", pixels[9:40])
    assert evaluate(drawn, real, out=tmp_path / "out") == 0
    assert evaluate(drawn, reference=run, out=tmp_path / "out") == 0
    (one,), (two,) = (results(tmp_path / "out" / f"eval-000{n}.json") for n in (1, 2))
    assert one["n"] == two["n"] == 9
    assert one["features"][0]["reference_n"] == 9
    assert two["reference"] == "training pictures of debug"
    assert two["features"][0]["scores"]["frechet"] < 3 * two["features"][0]["baseline"]["frechet"]
    assert not list(drawn.glob("*.json"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 1}, "1 drawn picture: .* from 2 on"),
        ({"feature": ["pcaa"]}, "Did you mean 'pca'"),
        ({"metric": "frechett"}, "Did you mean 'frechet'"),
        ({"metric": "accuracy"}, "no metric called 'accuracy' here"),
        ({"set": ["pca.with=3"]}, "Did you mean 'width'"),
        ({"set": ["pca"]}, "write FEATURE.OPTION=VALUE"),
        ({"sweep": ["steps"]}, "no axis of a sweep"),
        ({"sweep": ["step=3,4"]}, "sample.steps"),
        ({"sweep": ["steps=3,4"], "steps": 3}, "give it once"),
        ({"sweep": ["ema=half"]}, "ema wants a number"),
        ({"ema": 0.3}, "keeps no EMA 0.3"),
        ({"solver": "jump"}, "average velocities"),
        ({"size": 9}, "--size is for folders"),
    ],
)
def test_what_a_run_cannot_be_asked(run, options, told):
    with pytest.raises(ValueError, match=told):
        evaluate(run, **{"n": 8, **options})


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
        "1 drawn picture": (one, few, {}),
        "1 reference .* picture": (few, one, {}),
        "holds no picture": (empty, few, {}),
        "z.png is 9x8, where 8x8": (mixed, few, {}),
        "a.png is 16x16, where 8x8": (large, run, {}),
        "is not the size|are 16x16": (large, run, {"size": 16}),
        "give the real ones too": (few, None, {}),
        "--steps is for a run": (few, one, {"steps": 3}),
        "has 4 pictures; --n 9": (few, few, {"n": 9}),
    }
    for words, (drawn, real, options) in told.items():
        with pytest.raises(ValueError, match=words):
            evaluate(drawn, real, **options)
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
