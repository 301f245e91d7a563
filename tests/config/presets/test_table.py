"""Presets as a table: whole, without problems, carrying their evidence."""

import pytest

from pathline.config.layers import build, to_tree
from pathline.config.resolve import PRESETS, read
from pathline.config.run import Run, picks_of, problems, terms_of
from pathline.config.yaml_io import write


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name):
    run = PRESETS[name]
    assert build(Run, to_tree(run)) == run


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_through_a_file(name, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(write(to_tree(PRESETS[name])))
    if not name.startswith("own-"):
        assert read(str(path)).run == PRESETS[name]
        assert read(base=path).run == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_sound(name):
    run = PRESETS[name]
    assert run.name == name
    found = [problem.key for problem in problems(run)]
    assert found == (["data.source"] if name.startswith("own-") else [])


@pytest.mark.parametrize("name", PRESETS)
def test_carries_evidence(name):
    about = PRESETS[name].about
    assert about.purpose != Run().about.purpose
    assert about.expect
    assert about.device


def test_the_ones_promised():
    promised = "quickstart digits shapes fashion-mnist cifar10 cifar10-cpu debug overfit"
    promised += " own-small own-medium own-large"
    assert set(promised.split()) <= PRESETS.keys()


def test_cifar10_is_the_published_setting():
    run = PRESETS["cifar10"]
    backbone = run.backbone.options
    assert [backbone[key] for key in ("width", "depth", "heads", "patch")] == [768, 12, 12, 2]
    assert (run.train.batch, run.train.updates, run.train.ema) == (128, 100_000, (0.9999,))
    assert (run.optimizer.options["lr"], run.objective.options["dropout"]) == (1e-4, 0.1)
    assert (run.train.precision, run.sample.steps) == ("bf16", 50)
    assert run.sample.guidance.options["scale"] == 3


def test_parts_of_a_run():
    run = Run(terms={"mse": 1.0, "l1": 0.0, "huber": {"weight": 0.5, "delta": 2}})
    assert {name: weight for name, (weight, _) in terms_of(run).items()} == {
        "mse": 1.0,
        "huber": 0.5,
    }
    assert picks_of(run)["terms.huber"].options == {"delta": 2}
    assert picks_of(run)["sample.solver"].name == "euler"
