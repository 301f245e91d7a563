"""`pathline ema`: a file of weights from what a run stored, and what is said when there is none."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pathline.recipes.ema import ema
from pathline.training.power_ema import power_function, store


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.yaml").write_text("")
    network = nn.Linear(2, 2)
    averages = [power_function(network, sigma_rel) for sigma_rel in (0.05, 0.1)]
    for n in range(40):
        network.weight.data.fill_(float(n + 1))
        for average in averages:
            average.update(network, n)
            if (n + 1) % 10 == 0:
                store(tmp_path / "averages", average, n + 1)
    return tmp_path


def test_it_writes_the_average(run, capsys):
    assert ema(run, sigma_rel=0.1) == 0
    weights = load_file(run / "averages" / "rebuilt-0.1-00000040.safetensors")
    stored = load_file(run / "averages" / "power-0.1-00000040.safetensors")
    assert weights.keys() == stored.keys() == {"weight", "bias"}
    torch.testing.assert_close(weights["weight"], stored["weight"])
    said = capsys.readouterr().out
    assert "from 8 snapshots" in said
    assert "warning" not in said
    assert "next: pathline generate" in said


def test_a_second_average_does_not_build_on_the_first(run, tmp_path):
    ema(run, sigma_rel=0.08)
    ema(run, sigma_rel=0.08, out=tmp_path / "again.safetensors")
    first = load_file(run / "averages" / "rebuilt-0.08-00000040.safetensors")["weight"]
    assert torch.equal(first, load_file(tmp_path / "again.safetensors")["weight"])


def test_an_earlier_update(run, tmp_path):
    ema(run, sigma_rel=0.1, update=20, out=tmp_path / "a.safetensors")
    stored = load_file(run / "averages" / "power-0.1-00000020.safetensors")["weight"]
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors")["weight"], stored)


def test_a_length_that_cannot_be_had_is_said(run, capsys):
    ema(run, sigma_rel=0.003)
    assert "warning: sigma_rel=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"update": 41}, r"updates 10 … 40; --update 41"),
        ({"update": 9}, r"updates 10 … 40; --update 9"),
        ({"sigma_rel": 0.5}, "the length of an average is in"),
    ],
)
def test_what_cannot_be_is_refused(run, settings, words):
    with pytest.raises(ValueError, match=words):
        ema(run, **settings)


def test_a_run_without_snapshots_is_told_how_to_have_them(tmp_path):
    with pytest.raises(ValueError, match=r"no run folder"):
        ema(tmp_path)
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(ValueError, match=r"train.power_ema"):
        ema(tmp_path)
