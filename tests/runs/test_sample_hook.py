"""Sample grids in training: what they show, when the first one comes, and prompts of one's own."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pathline.cli import main
from pathline.images import sheet
from pathline.runs import sample_hook
from pathline.runs.folder import open_run

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "train.updates=4", "train.sample_every=4", "train.validate_every=0"),
    *("sample.steps=2", "train.probe_every=0", "train.log_every=1"),
]
COLOURS = ("red", "blue")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Captioned pictures, and a folder to train in."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), COLOURS[number % 2]).save(f"mine/{number}.png")
        Path(f"mine/{number}.txt").write_text(f"a {COLOURS[number % 2]} square {number // 4}\n")


def train(*settings, what="mine"):
    small = ["size=small", "data.size=16", "backbone.patch=4"] if what == "mine" else []
    return main(["train", what, *small, *TINY, *settings, "--out", "run"])


@pytest.fixture
def titles(monkeypatch):
    """The titles of every sheet."""
    shown = []
    monkeypatch.setattr(
        sample_hook,
        "sheet",
        lambda pixels, titles, **more: shown.append(list(titles)) or sheet(pixels, titles, **more),
    )
    return shown


def pages():
    return sorted(path.name for path in Path("run/samples").iterdir())


def test_captions_do_not_repeat_while_there_are_others(titles):
    assert train("data.holdout=0.1", "sample.count=8") == 0
    assert len(titles[0]) == 8
    assert len(set(titles[0])) == 6  # all that there are, then in turn


def test_prompts_of_ones_own(titles):
    assert train('sample.prompts=["a red square 0", "a blue square 1"]') == 0
    assert titles[0] == ["a red square 0", "a blue square 1"]


def test_prompts_from_a_file_are_written_out(titles):
    Path("prompts.txt").write_text("a red square\n\na blue square\n")
    assert train("sample.prompts=prompts.txt") == 0
    assert titles[0] == ["a red square", "a blue square"]
    run = open_run(Path("run"), print).run
    assert run.sample.prompts == ("a red square", "a blue square")


def test_class_names_can_be_prompts(titles):
    assert train("sample.prompts=[7, '3']", what="digits") == 0
    assert titles[0] == ["7", "3"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["text=none", "sample.prompts=a red square"], "sample.prompts is wrong because"),
        (["sample.prompts=none.txt"], "sample.prompts none.txt does not exist"),
    ],
)
def test_prompts_that_cannot_be_sampled_are_refused_before_training(settings, message, capsys):
    assert train(*settings) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_first_grid_comes_by_the_clock(capsys):
    assert train("train.first_sample=1e-9", "train.sample_every=3", what="digits") == 0
    assert pages() == [
        *("fixed-00000001.png", "fixed-00000003.png", "fixed-00000004.png"),
        *("fresh-00000003.png", "fresh-00000004.png"),
    ]
    assert f"first samples: {Path('run/samples/fixed-00000001.png')}" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [["train.first_sample=0"], ["train.first_sample=900"]])
def test_no_first_grid_where_it_is_off_or_not_due(settings):
    assert train(*settings, what="digits") == 0
    assert pages() == ["fixed-00000004.png", "fresh-00000004.png"]


def test_a_first_grid_changes_no_weights():
    weights = []
    for after in ("0", "1e-9"):
        out = f"run-{after}"
        assert main(["train", "digits", *TINY, f"train.first_sample={after}", "--out", out]) == 0
        file = next(Path(out).glob("checkpoints/*/network.safetensors"))
        weights.append(file.read_bytes())
    assert weights[0] == weights[1]


def test_a_long_title_ends_in_an_ellipsis(monkeypatch):
    written = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda _, __, text, **___: written.append(text)
    )
    sheet(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), ["a long caption of many words " * 4])
    assert len(written) == 3
    assert written[-1].endswith(" …")


def test_a_class_has_a_column(monkeypatch):
    shown = []
    monkeypatch.setattr(
        sample_hook,
        "sheet",
        lambda pixels, _, columns: shown.append(columns) or sheet(pixels),
    )
    assert train(what="digits") == 0
    assert shown == [10, 10]
