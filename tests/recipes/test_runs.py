"""The list of runs shows their state from what is in their folders; a comparison what differs."""

import shutil
from pathlib import Path

import pytest

from pathline.cli import main
from pathline.files import locked
from pathline.recipes.runs import aligned, spread, summary_of

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "train.sample_every=0", "train.log_every=1", "train.probe_every=0"),
    *("train.save_every=2", "train.validate_every=2", "train.updates=4"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("a", "0.001"), ("b", "0.002")):
        words = ["train", "debug", *TINY, f"optimizer.lr={rate}", "--out", str(folder / name)]
        assert main(words) == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def test_the_state_of_every_run_is_listed(folder, capfd):
    shutil.copytree(folder / "a", folder / "half")
    shutil.rmtree(folder / "half/checkpoints/step-00000004")
    shutil.copytree(folder / "a", folder / "gone")
    for saved in (folder / "gone/checkpoints").iterdir():
        (saved / "network.safetensors").write_bytes(b"")
    (folder / "b/best").write_text("checkpoints/step-00000004\nfid 12.25\nmethod\n")
    (folder / "no run").mkdir()
    with locked(folder / "b"):
        assert main(["runs"]) == 0
    shown = {line.split()[0]: line.split() for line in capfd.readouterr().out.splitlines()}
    assert shown["run"][:4] == ["run", "status", "update", "loss"]
    assert shown["runs/a"][1:3] == ["finished", "4/4"]
    assert float(shown["runs/a"][3]) > 0
    assert shown["runs/half"][1:3] == ["interrupted", "2/4"]
    assert shown["runs/gone"][1:3] == ["damaged", "0/4"]
    assert shown["runs/b"][1:3] == ["training", "4/4"]
    assert shown["runs/b"][4:6] == ["fid", "12.25"]
    assert shown["next:"] == ["next:", "pathline", "train", "--resume", "runs/half"]
    assert "MB" in shown["runs/a"]


def test_one_run_and_damaged_lines_are_shown(folder, capfd):
    with (folder / "a/metrics.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    (folder / "a/run.yaml").write_bytes(b"\xff")
    assert main(["runs", "runs/a"]) == 0
    shown = capfd.readouterr().out
    assert "damaged" in shown
    assert "metrics.jsonl:" in shown
    assert "run.yaml" in shown


@pytest.mark.usefixtures("folder")
def test_differing_settings_losses_and_last_values_are_compared(capfd):
    assert main(["runs", "compare", "runs/a", "runs/b"]) == 0
    shown = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["optimizer.lr", "0.001", "0.002"] in shown
    assert not any(line[:1] == ["train.updates"] for line in shown)
    assert ["loss", "at", "common", "updates"] in shown
    assert [line[0] for line in shown if line and line[0] in "1234"] == [
        "1",
        "2",
        "3",
        "4",
        "2",
        "4",
    ]
    assert any(line[:1] == ["val/loss"] and len(line) == 3 for line in shown)
    assert main(["runs", "compare", "runs/a", "runs/a"]) == 0
    assert "settings: no difference" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "has no run in it"),
        (["compare", "runs/a"], "wants two or more"),
        (["compare", "runs/a", "runs"], "runs is no run folder"),
        (["runs/a", "runs/b"], "pathline runs compare runs/a runs/b"),
    ],
)
def test_what_is_no_run_is_refused(folder, words, says, capfd):
    assert folder.is_dir()
    assert main(["runs", *words]) == 2
    assert says in capfd.readouterr().err


def test_time_is_of_training_alone(tmp_path):
    lines = '{"update":1,"images":8}\n{"update":2,"images":24,"images_per_second":4}\n'
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert summary_of(tmp_path).seconds == 4.0


def test_tables_are_aligned_and_rows_spread():
    assert aligned([["a", "b"], ["long", "c"]]) == ["a     b", "long  c"]
    assert spread(range(100), 3) == [0, 50, 99]
    assert spread([1, 2], 3) == [1, 2]
