"""Trackers of other makers: refused in words, and what they were told can be read back."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from PIL import Image

from pathline.training.trackers import dashboards
from pathline.training.trackers.jsonl import METRICS, Tracker, jsonl

SETTINGS = {"name": "dots", "train": {"batch": 8}}


@pytest.fixture
def run(tmp_path):
    """A run folder with a grid drawn at update 2."""
    (tmp_path / "samples").mkdir()
    Image.new("L", (12, 8), 200).save(tmp_path / "samples" / "fixed-00000002.png")
    return tmp_path


def needs(name):
    missing = not dashboards.installed(name)
    return pytest.mark.skipif(missing, reason=f"needs pip install 'pathline[{name}]'")


def fed(name, run, updates, *, resumed_at=0):
    """Train for some updates as far as a tracker can see; returns what it complained of."""
    told = []
    given = (run, "dots-1", SETTINGS, told.append)
    tracker = dashboards.opened([name], *given, resumed_at=resumed_at)
    for update in updates:
        tracker.numbers(update, update * 8, {"loss": 1 / update, "val/t=0.05": 2.0})
    tracker.picture(2, "samples/fixed", run / "samples" / "fixed-00000002.png")
    tracker.close()
    return told


def test_an_unknown_tracker_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"'tensorbord' is no tracker. Did you mean 'tensorboard'\?"
    ):
        dashboards.refuse(["jsonl", "tensorbord"])


def test_a_missing_package_is_refused_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(dashboards, "installed", lambda _: False)
    with pytest.raises(ValueError, match=r"pip install 'pathline\[wandb\]'"):
        dashboards.refuse(["wandb"])
    dashboards.refuse(["jsonl"])  # is always there


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_mine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not dashboards.installed("wandb_of_mine")
    assert dashboards.installed("json")


def test_what_a_run_folder_holds(run):
    jsonl(run / METRICS)(3, 24, {"loss": 0.5})
    line = json.loads((run / METRICS).read_text())
    assert dashboards.parts({**line, "note": "words"}) == (3, 24, {"loss": 0.5})
    (run / "samples" / "by-hand.png").touch()
    file = run / "samples" / "fixed-00000002.png"
    assert list(dashboards.pictures(run)) == [(2, "samples/fixed", file)]


def test_the_past_is_told_in_its_order(run):
    """wandb drops what comes after something later."""
    track = jsonl(run / METRICS)
    for update in (1, 2, 3, 4):
        track(update, update * 8, {"loss": 1.0})
    told = []
    tracker = Tracker(lambda n, *_: told.append(n), lambda n, *_: told.append(-n), lambda: None)
    dashboards._caught_up(tracker, run, 3)
    assert told == [1, 2, -2, 3]
    assert dashboards._caught_up(tracker, run, 0) is tracker
    assert len(told) == 4


@needs("tensorboard")
def test_tensorboard_reads_back_what_it_was_caught_up(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert fed("tensorboard", run, range(1, 6)) == []
    assert fed("tensorboard", run, range(4, 7), resumed_at=3) == []
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    steps = [(event.step, event.value) for event in found.Scalars("loss")]
    assert steps == [(n, pytest.approx(1 / n)) for n in range(1, 7)]  # 4 and 5 once only
    assert found.Images("samples/fixed")[0].width == 12


@needs("tensorboard")
def test_a_tracker_that_comes_later_is_told_of_the_past(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert fed("jsonl", run, range(1, 6)) == []
    assert fed("tensorboard", run, [4], resumed_at=3) == []
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4]


def in_a_process(name, run, *, resumed_at=0, **environment):
    """These read their environment once, so each run has a process of its own."""
    code = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1]); import test_boards as t; "
        "from pathlib import Path; start = int(sys.argv[4]); "
        "print(t.fed(sys.argv[2], Path(sys.argv[3]), range(start + 1, start + 4), "
        "resumed_at=start))"
    )
    here = os.path.dirname(__file__)
    return subprocess.run(
        [sys.executable, "-c", code, here, name, str(run), str(resumed_at)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@needs("wandb")
def test_wandb_keeps_to_the_run_folder_and_asks_for_no_account(run, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    done = in_a_process("wandb", run, HOME=str(home))
    assert done.stdout.strip() == "[]", done.stderr
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert list(home.iterdir()) == []


@pytest.mark.slow
@needs("trackio")
def test_trackio_keeps_to_the_run_folder_and_resumes(run, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for start in (0, 2):
        done = in_a_process("trackio", run, resumed_at=start, HOME=str(home))
        assert done.stdout.strip() == "[]", done.stderr
    with sqlite3.connect(run / "trackio" / "pathline.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    losses = [step for step, metrics in rows if "loss" in json.loads(metrics)]
    assert losses == [1, 2, 3, 4, 5]  # 3 is there once only
    assert list(home.iterdir()) == []
