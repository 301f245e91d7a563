"""Measuring a run while it trains: what is logged, and which checkpoint is called the best."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from pathline.assemble import assemble
from pathline.config.pick import pick
from pathline.config.resolve import read
from pathline.evaluation import eval_hook as bests
from pathline.evaluation.eval_hook import best_of, eval_hook, is_better, prepare_evaluation
from pathline.runs.feed import load_data
from pathline.runs.methods import flow_player
from pathline.training import checkpoint
from pathline.training.device import pick_precision
from pathline.training.loop import Progress
from pathline.training.team import Placement

CPU = torch.device("cpu")


class Scene:
    """A run about to be trained, with a hook that measures it."""

    def __init__(self, folder, **options):
        chosen = read("debug", overrides=["data.holdout=0.2", "sample.steps=2"]).run
        evaluation = replace(chosen.eval, **{"every": 2, "n": 10, **options})
        console = Console(file=io.StringIO())
        self.run, facts, data_for = load_data(
            replace(chosen, eval=evaluation), folder / "bad", console
        )
        parts = assemble(self.run, facts)
        precision = pick_precision("fp32", CPU)
        self.player = flow_player(self.run, parts, Placement(CPU, precision))
        self.tracked, self.saved, self.said, self.folder = [], [], [], folder
        data = data_for(parts)
        evaluation = prepare_evaluation(
            self.run, parts, data, self.player, precision.autocast, self.said.append
        )
        self.hooks = list(eval_hook(evaluation, folder, self.track, self.save, self.said.append))

    def track(self, update, images, values):
        self.tracked.append((update, images, dict(values)))

    def save(self, progress):
        self.saved.append(progress.update)
        checkpoint.save(self.folder / "checkpoints", progress.update, {}, {}, {})

    def at(self, update):
        self.hooks[0](Progress(update, 16 * update), {})


@pytest.fixture
def rigged(monkeypatch):
    """Scores as a test wants them, one at each look."""
    values = []

    def score(*_):
        return {"scores": {"FD-pca": values.pop(0)}}

    monkeypatch.setattr(bests, "score", score)
    return values


def test_every_so_many_updates_all_scores_are_logged_with_the_baseline(tmp_path):
    scene = Scene(tmp_path)
    weights = [p.clone() for p in scene.player.network.parameters()]
    for update in range(1, 5):
        scene.at(update)
    assert [(update, images) for update, images, _ in scene.tracked] == [(2, 32), (4, 64)]
    assert scene.tracked[0][2].keys() >= {"eval/FD-pca", "eval/precision", "eval/nearest_ratio"}
    assert scene.tracked[0][2]["eval/baseline_FD-pca"] > 0
    assert scene.tracked[0][2] == scene.tracked[1][2]  # the same weights, noise and prompts
    assert scene.player.network.training
    assert all(map(torch.equal, weights, scene.player.network.parameters()))
    assert "n 10, seed 0, EMA 0.9, euler, 2 steps" in scene.said[1]
    assert "biased" in scene.said[0]


def test_the_best_is_saved_and_named_and_a_worse_one_is_not(tmp_path, rigged):
    scene = Scene(tmp_path)
    rigged += [3.0, 4.0, math.nan, 1.5]
    for update in (2, 4, 6, 8):
        scene.at(update)
    assert scene.saved == [2, 8]
    found = best_of(tmp_path)
    assert found is not None
    assert (found.update, found.metric, found.value) == (8, "FD-pca", 1.5)
    assert (tmp_path / "best").read_text().splitlines()[0] == "checkpoints/step-00000008"


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path, rigged):
    scene = Scene(tmp_path)
    checkpoint.save(tmp_path / "checkpoints", 2, {}, {}, {})
    rigged += [3.0]
    scene.at(2)
    assert scene.saved == []
    assert best_of(tmp_path) is not None


def test_a_full_disk_leaves_the_former_best_in_place(tmp_path, rigged, monkeypatch):
    scene = Scene(tmp_path)
    rigged += [3.0, 1.0]
    scene.at(2)
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    scene.at(4)
    found = best_of(tmp_path)
    assert found is not None
    assert found.update == 2


def test_a_resumed_run_goes_on_from_its_best_unless_it_is_measured_otherwise(tmp_path, rigged):
    rigged += [3.0, 4.0, 5.0]
    Scene(tmp_path).at(2)
    Scene(tmp_path).at(4)
    assert best_of(tmp_path).update == 2
    Scene(tmp_path, n=12).at(6)  # another n: the two can't be compared
    assert best_of(tmp_path).update == 6


def test_a_best_that_cannot_be_read_is_named(tmp_path):
    assert best_of(tmp_path) is None
    (tmp_path / "best").write_text("checkpoints/step-\nFD-pca\n")
    with pytest.raises(ValueError, match=r"best can't be read\. Delete it"):
        best_of(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metric": "frechte"}, "Did you mean 'frechet'"),
        (
            {"metric": "accuracy"},
            "metric=accuracy is wrong because there is no such metric",
        ),  # pca knows no classes
        ({"n": 1}, "1 sampled image:"),
        ({"feature": pick("pcaa")}, "Did you mean 'pca'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        Scene(tmp_path, **options)


def test_never_means_no_hook(tmp_path):
    assert Scene(tmp_path, every=0).hooks == []


def test_less_of_a_distance_and_more_of_a_share_is_better():
    assert is_better("FID", 1.0, 2.0)
    assert not is_better("FID", 2.0, 1.0)
    assert is_better("recall", 0.9, 0.8)
    assert not is_better("recall", math.nan, 0.1)
    assert not is_better("kid", math.nan, 0.1)
