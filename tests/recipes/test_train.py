"""A training as a person runs it: resumed, interrupted, killed, diverged, and given bad input."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pathline.cli import main
from pathline.training import checkpoint

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=512", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    return main(["train", *map(str, arguments)])


def tensors(run, update):
    folder = Path(run) / "checkpoints" / checkpoint.name(update)
    return {
        f"{file.stem}/{key}": value
        for file in folder.glob("*.safetensors")
        for key, value in load_file(file).items()
    }


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert len(one) > 50
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.parametrize(
    ("stops", "more"),
    [
        ([5], []),
        ([2, 5], []),  # a second resume
        ([3], ["train.batch=479"]),  # 1437 or 1438 pictures: the epoch ends within an update
        ([4], ["train.accumulate=4"]),
    ],
)
def test_n_updates_are_k_and_resume_and_the_rest_bit_for_bit(stops, more):
    """The schedule must not know of the stop: it is a signal, not a smaller train.updates."""
    settings = [*TINY, "train.save_every=100", *more]
    assert train("digits", *settings, "train.updates=7", "--out", "straight") == 0
    assert (
        train("digits", *settings, "train.updates=7", "--out", "parts", *stop_at(stops[0])) == 130
    )
    for stop in stops[1:]:
        assert train("--resume", "parts", *stop_at(stop)) == 130
    assert train("--resume", "parts") == 0
    assert_equal(tensors("straight", 7), tensors("parts", 7))
    lines = [Path(run, "metrics.jsonl").read_text().splitlines() for run in ("straight", "parts")]
    losses = [[(entry["update"], entry["loss"]) for entry in map(json.loads, run)] for run in lines]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7


_stop = []


def stop_at(update):
    _stop[:] = [update]
    return []


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


def test_a_different_seed_gives_different_weights():
    """The control of the test above: it can fail."""
    for seed in (0, 1):
        train("digits", *TINY, "train.updates=2", "--out", f"seed{seed}", "--seed", seed)
    one, two = tensors("seed0", 2), tensors("seed1", 2)
    assert [key for key in one if not torch.equal(one[key], two[key])]


def test_accumulation_is_another_noise_of_the_same_pictures():
    train("digits", *TINY, "train.updates=1", "--out", "one")
    train("digits", *TINY, "train.updates=1", "train.accumulate=2", "--out", "two")
    one, two = (
        json.loads(Path(run, "metrics.jsonl").read_text())["loss"] for run in ("one", "two")
    )
    assert one != two
    assert one == pytest.approx(two, rel=0.05)


KILLED_WHILE_SAVING = """
import os, signal
from pathline.training import checkpoint
real = checkpoint._write_synced
def die(path, text):
    if "step-00000004" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, text)
checkpoint._write_synced = die
from pathline.cli import main
main({arguments})
"""


def test_a_kill_in_the_middle_of_a_save_loses_only_what_came_after_the_last_one(capfd):
    settings = [*TINY, "train.updates=6", "train.save_every=2"]
    code = KILLED_WHILE_SAVING.format(arguments=["train", "digits", *settings, "--out", "killed"])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    left = sorted(path.name for path in Path("killed/checkpoints").iterdir())
    assert left[-1] == "step-00000002"
    assert left[0].startswith(".tmp-step-00000004")
    assert train("--resume", "killed") == 0
    assert "resumed at update 2 of 6" in capfd.readouterr().out
    assert train("digits", *settings, "--out", "straight") == 0
    assert_equal(tensors("killed", 6), tensors("straight", 6))
    assert not list(Path("killed/checkpoints").glob(".tmp*"))


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(capfd):
    train("digits", *TINY, "train.updates=4", "train.save_every=2", "--out", "run")
    file = Path("run/checkpoints/step-00000004/network.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert train("--resume", "run") == 0
    told = capfd.readouterr().out
    assert "step-00000004 is passed over: network.safetensors has" in told
    assert "resumed at update 2 of 4" in told


@pytest.fixture
def stopped(monkeypatch):
    """Trainings that are interrupted before their first update."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathline.evaluation.training.train_players", stop)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("warned", [True, False])
def test_noise_tied_to_conditions_is_warned_of(warned, capfd):
    given = ["coupling=optimal", "text=labels" if warned else "text=none"]
    assert train("digits", *TINY, *given) == 130
    sentence = "coupling=optimal pairs noise and images across conditions"
    assert (sentence in capfd.readouterr().out) == warned


@pytest.mark.usefixtures("stopped")
def test_what_a_run_is_stands_in_its_folder_before_the_first_update():
    assert train("digits", *TINY, "--out", "run") == 130
    assert "width: 16" in Path("run/run.yaml").read_text()
    assert json.loads(Path("run/facts.json").read_text())["names"] == list("0123456789")
    origin = json.loads(Path("run/origin.json").read_text())
    assert origin["versions"]["torch"] == torch.__version__.partition("+")[0] or origin["versions"]


def test_a_finished_run_says_that_nothing_is_left(capfd):
    train("digits", *TINY, "train.updates=2", "--out", "run")
    before = tensors("run", 2)
    assert train("--resume", "run") == 0
    assert "nothing is left to do" in capfd.readouterr().out
    assert_equal(before, tensors("run", 2))
    assert train("--resume", "run", "train.updates=3") == 0
    assert Path("run/checkpoints/step-00000003").is_dir()


def test_a_diverging_run_exits_3_with_a_good_checkpoint(capfd):
    code = train("digits", *TINY, "optimizer.lr=1e9", "train.updates=20", "--out", "run")
    told = capfd.readouterr().out
    assert code == 3
    assert "not taken: network: the" in told
    assert "digit-" in told
    assert all(value.isfinite().all() for value in tensors("run", last("run")).values())


def last(run):
    return int(sorted(Path(run, "checkpoints").iterdir())[-1].name[5:])


def test_a_full_disk_while_training_is_told_and_the_run_goes_on(monkeypatch, capfd):
    real, calls = checkpoint.save, []

    def full_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "save", full_once)
    assert train("digits", *TINY, "train.updates=4", "train.save_every=2", "--out", "run") == 0
    assert "No space left" in capfd.readouterr().out
    assert last("run") == 4


def test_pictures_that_cannot_be_written_are_told_and_the_run_goes_on(monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    looks = ["train.sample_every=1", "sample.steps=1", "sample.count=2"]
    assert train("digits", *TINY, *looks, "train.updates=2", "--out", "run") == 0
    assert "the sample grid of update 1 was not written" in capfd.readouterr().out
    assert last("run") == 2


def test_a_second_signal_at_once_leaves_the_last_save_alone(monkeypatch):
    """torchrun hands on what all processes got already."""
    real, calls = checkpoint.save, []

    def echoed(*arguments):
        calls.append(arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "save", echoed)
    assert train("digits", *TINY, "train.updates=9", "--out", "run", *stop_at(3)) == 130
    assert len(calls) == 1
    assert last("run") == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["backbone.width=32"], "32"),
        (["optimizer=muon"], "optimizer=muon cannot resume a run trained with optimizer=adamw"),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(changes, says, capfd):
    train("digits", *TINY, "train.updates=2", "--out", "run")
    before = Path("run/run.yaml").read_bytes()
    capfd.readouterr()
    assert train("--resume", "run", "train.updates=3", *changes) == 2
    assert says in " ".join(capfd.readouterr().err.split())
    assert Path("run/run.yaml").read_bytes() == before
    assert train("--resume", "run", "train.updates=3") == 0


def test_pictures_that_came_or_went_are_noticed(capfd):
    """Held-out ones would be trained on."""
    Path("mine").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(f"mine/{number}.png")
    small = ["data.size=16", "train.batch=2", "train.sample_every=0", *TINY[:4]]
    assert train("mine", *small, "train.batch=2", "train.updates=1", "--out", "run") == 0
    Path("mine/0.png").unlink()
    assert train("--resume", "run", "train.updates=2") == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "pictures was 6, " in told
    assert "is 5, " in told
    assert "init=run" in told


BAD = {
    "a folder that holds a run": (["digits", "--out", "taken"], "not empty"),
    "a missing run": (["--resume", "nowhere"], "does not exist"),
    "a folder that is no run": (["--resume", "plain"], "no run.yaml"),
    "latest without runs": (["--resume", "latest"], "no  ?run under"),
    "an unknown preset": (["digit"], "Did you mean 'digits'"),
    "an unknown key": (["digits", "train.udpates=3"], "train.updates"),
    "an unknown row": (["digits", "sample.solver=huen"], "Did you mean 'heun'"),
    "a wrong type": (["digits", "train.batch=many"], "whole number"),
    "a patch that does not divide": (["digits", "backbone.patch=3"], "patch"),
    "a patch too wide for velocities": (
        ["shapes", "backbone.patch=8", "objective.prediction=v", "data.source.count=20"],
        "192 values .* objective.prediction=x1",
    ),
    "words without captions": (["digits", "text=words"], "the data has no captions"),
    "a device that is not there": (["digits", "--device", "cuda:9"], "can't be used"),
    "guidance by a network that is not there": (
        ["digits", "sample.guidance=autoguidance"],
        "weaker network",
    ),
    "jumps without average velocities": (["digits", "sample.solver=jump"], "average velocities"),
    "classes that are not there": (["digits", "coupling=within_class", "text=none"], "label"),
    "a second time that nobody gives": (["digits", "backbone.takes_r=true"], "later time r"),
    "a share of no picture": (
        [
            *("digits", "objective=mean_flow", "backbone.takes_r=true", "sample.solver=jump"),
            *("train.batch=4", "train.accumulate=4"),
        ],
        "micro-batch of 1 rounds to 0 samples.* micro-batch of 2",
    ),
    "an interval that is none": (
        ["digits", "sample.guidance=interval", "sample.guidance.low=1", "sample.guidance.high=0.5"],
        "low is above high",
    ),
    "a shift below 0": (["digits", "times.shift=-1"], "above 0"),
    "all held out": (["digits", "data.holdout=0.9999"], "leaves none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_2(case, capfd):
    Path("taken").mkdir()
    Path("taken/keep.txt").write_text("mine")
    Path("plain").mkdir()
    arguments, words = BAD[case]
    assert train(*arguments) == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert re.search(words, " ".join(told.split())), told
    assert [path.name for path in Path("taken").iterdir()] == ["keep.txt"]
    assert not list(Path(".").glob("runs/*"))  # nothing that looks like a run is left


@pytest.mark.parametrize("captions", ["refuse", "null"])
def test_a_picture_without_a_caption_is_named_or_trained_without(captions, capfd):
    Path("mine").mkdir()
    for name, said in (("a", "a red wall"), ("b", "a blue wall"), ("c", None)):
        Image.new("RGB", (20, 20), "red").save(f"mine/{name}.png")
        if said:
            Path(f"mine/{name}.txt").write_text(said)
    small = ["data.size=16", "train.updates=1", "train.batch=2", "data.holdout=0", *TINY[:5]]
    asked = [*small, "train.batch=2", f"data.missing_captions={captions}"]
    code = train("mine", *asked, "--out", "run")
    told = capfd.readouterr()
    assert code == (2 if captions == "refuse" else 0)
    if captions == "refuse":
        assert "1 of 3 pictures have no caption, the first c.png" in told.err


def test_an_unreadable_picture_is_listed_and_too_many_stop_the_run(capfd):
    Path("mine").mkdir()
    for number in range(20):
        Image.new("RGB", (20, 20), "red").save(f"mine/{number:02}.png")
    cut = Path("mine/07.png")
    cut.write_bytes(cut.read_bytes()[:40])
    asked = ["data.size=16", "train.updates=1", "data.holdout=0", *TINY[:5], "train.batch=4"]
    assert train("mine", *asked, "train.sample_every=0", "--out", "run") == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "1 of 20 pictures can't be read" in told
    assert "07.png" in told
    assert train("mine", *asked, "data.max_bad=0.1", "--out", "run") == 0
    assert "07.png" in Path("run/unreadable.jsonl").read_text()
    assert "19 images" in capfd.readouterr().out


def test_an_older_checkpoint_is_not_mixed_with_newer_ones(capfd):
    train("digits", *TINY, "train.updates=4", "train.save_every=2", "--out", "run")
    assert train("--resume", "run/checkpoints/step-00000002") == 2
    assert "newer checkpoint" in capfd.readouterr().err
