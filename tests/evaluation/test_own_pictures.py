"""Settings chosen for a folder of pictures: what suits them, and a size by a measured update."""

import pytest
import torch
from PIL import Image

from pathline.config.presets.own_pictures import OWN_PICTURES
from pathline.config.resolve import PRESETS
from pathline.evaluation import own_pictures
from pathline.evaluation.own_pictures import Survey, fit_settings, suitable
from pathline.runs.folder import Layers

PRECISE = "train.precision=fp32"  # needs no measurement of its own


def survey(count=150, side=128, captions=(), names=("cat", "dog")):
    return Survey(count, [(side + 8, side)] * 3, list(captions), tuple(names))


@pytest.fixture
def folder(tmp_path):
    for word, red in (("cat", 200), ("dog", 20)):
        (tmp_path / "mine" / word).mkdir(parents=True)
        for number in range(15):
            Image.new("RGB", (80, 70), (red, 9 * number, 90)).save(
                tmp_path / "mine" / word / f"{number}.png"
            )
    return tmp_path / "mine"


@pytest.fixture
def seconds(monkeypatch):
    """Updates that take as long as the test says, whatever they do."""
    by_size = {"small": 0.1, "medium": 0.15, "large": 9.0}
    real = own_pictures.measure_update

    def measure_update(run, looked, device):
        trial = real(run, looked, device) if run.size == "small" else None
        parameters = trial.parameters if trial else 5_600_000
        return own_pictures.Trial(run, parameters, by_size[run.size])

    monkeypatch.setattr(own_pictures, "measure_update", measure_update)
    return by_size


@pytest.mark.parametrize(
    ("looked", "values"),
    [
        (survey(), {"data.holdout": 0.1}),
        (survey(5000), {}),
        (survey(5), {"data.holdout": 0.0}),
        (
            survey(side=28),
            {"data.size": 32, "backbone.patch": 4, "backbone.bottleneck": 0, "data.holdout": 0.1},
        ),
        (survey(captions=["A cat, left of a dog"]), {"data.holdout": 0.1, "data.flip": False}),
        (survey(captions=["leftovers"]), {"data.holdout": 0.1}),
        (survey(names=()), {"data.holdout": 0.1, "sample.guidance.scale": 1.0}),
    ],
)
def test_what_suits_the_pictures(looked, values):
    assert {entry.key: entry.value for entry in suitable(looked)} == values


def fitted(layers):
    return {entry.key: entry.value for entry in layers.fitted}


@pytest.mark.usefixtures("seconds")
def test_the_largest_size_within_twenty_minutes_is_chosen(folder):
    lines = []
    layers = fit_settings(Layers(str(folder), (), (PRECISE, "device=cpu"), {}), lines.append)
    assert fitted(layers) == {"size": "medium", "data.holdout": 0.1}
    assert lines[0] == "30 pictures in 2 classes (cat, dog), about 80×70 pixels"
    assert lines[2].startswith(
        "size=medium: a network of 5.6 million parameters, 6,000 updates of 48 pictures at 64×64: "
        "about 16 min on this CPU"
    )
    assert lines[3] == (
        "add size=large for a network of 5.6 million parameters, 20,000 updates: about 55 h 0 min"
    )


@pytest.mark.parametrize(("slow", "size"), [("small", "small"), ("medium", "small")])
def test_a_slow_machine_takes_the_smallest(folder, seconds, slow, size):
    seconds[slow] = 10.0
    layers = fit_settings(Layers(str(folder), (), (PRECISE,), {}), lambda _: None)
    assert fitted(layers)["size"] == size


@pytest.mark.usefixtures("seconds")
def test_the_time_is_that_of_the_updates_that_were_asked_for(folder):
    lines = []
    given = (PRECISE, "train.updates=250", "size=small", "device=cpu")
    layers = fit_settings(Layers(str(folder), (), given, {}), lines.append)
    assert "size" not in fitted(layers)
    assert "250 updates of 32 pictures at 64×64: about 28 s on this CPU" in lines[2]


def test_nothing_is_measured_where_it_would_say_nothing(folder, monkeypatch):
    monkeypatch.setattr(own_pictures, "measure_sizes", None)
    given = Layers(str(folder), (), ("size=small", "backbone.width=16"), {})
    assert fitted(fit_settings(given, lambda _: None)) == {"data.holdout": 0.1}
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = Layers(str(folder), (), (), {})
    assert fitted(fit_settings(given, lambda _: None))["size"] == "large"
    for what in ("digits", None, "no/folder", "run.yaml"):
        layers = Layers(what, (), (), {})
        assert fit_settings(layers, lambda _: None) is layers


@pytest.mark.usefixtures("seconds")
def test_measuring_changes_no_random_numbers(folder):
    torch.manual_seed(3)
    fit_settings(Layers(str(folder), (), (PRECISE,), {}), lambda _: None)
    measured = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), measured)


def test_sizes_come_in_the_order_of_their_time():
    lengths = [run.train.updates * run.train.batch for run in OWN_PICTURES]
    widths = [run.backbone.options["width"] for run in OWN_PICTURES]
    assert (lengths, widths) == (sorted(lengths), sorted(widths))
    assert [PRESETS[f"own-{run.size}"] for run in OWN_PICTURES] == list(OWN_PICTURES)
