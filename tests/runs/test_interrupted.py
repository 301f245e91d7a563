"""What a training leaves behind: damage, full disks, signals, a second training, refusals."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pathline.cli import main
from pathline.files import digest, is_locked, locked
from pathline.runs.launch import signals
from pathline.training import checkpoint, loop

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
    *("train.probe_every=0", "train.save_every=2"),
]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    return main(["train", *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four updates with checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train("debug", *TINY, "train.updates=4", "--out", str(folder)) == 0
    return folder


@pytest.fixture
def run(trained):
    shutil.copytree(trained, "run")
    return Path("run")


def digests(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): digest(path) for path in files}


@pytest.mark.parametrize("command", ["train --resume", "generate", "eval", "export"])
def test_where_no_checkpoint_is_whole_nothing_is_changed(run, command, capfd):
    """It began again at update 0, in the same folder."""
    for folder in (run / "checkpoints").iterdir():
        (folder / "network.safetensors").write_bytes(b"damaged")
    before = digests(run)
    out = ["--out", "x.safetensors"] if command == "export" else []
    assert main([*command.split(), "run", *out]) == 2
    error = capfd.readouterr().err
    assert "No checkpoint in run/checkpoints is whole, and nothing was changed" in error
    assert "step-00000002: network.safetensors has 7 bytes" in error
    assert "step-00000004: network.safetensors has 7 bytes" in error
    assert digests(run) == before


def test_foreign_files_in_a_checkpoint_are_ignored(run, capfd):
    for folder in (run / "checkpoints").iterdir():
        (folder / ".DS_Store").write_text("")
        (folder / "._network.safetensors").write_text("")
    assert train("--resume", "run", "train.updates=5") == 0
    assert "resumed at update 4 of 5" in capfd.readouterr().out


def test_an_undecodable_manifest_is_passed_over_for_an_older_checkpoint(run, capfd):
    manifest = run / "checkpoints/step-00000004/manifest.json"
    manifest.write_bytes(b'{"files": "\xe9"}')
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(b'\xff\xfe\n{"update": 4, "im')
    assert main(["generate", "run", "steps=1", "--n", "1"]) == 0
    assert "step-00000004 is passed over: manifest.json cannot be read" in capfd.readouterr().out
    assert train("--resume", "run") == 0
    shown = capfd.readouterr().out
    assert "resumed at update 2 of 4" in shown
    lines = len((run / "metrics.jsonl").read_bytes().splitlines())
    assert "metrics.jsonl:5: this line can't be read and is left out" in shown
    assert "metrics.jsonl:6: this line can't be read and is left out" in shown
    assert lines == 4


def test_a_full_disk_at_the_last_save_keeps_the_run(run, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = digests(run / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        assert train("--resume", "run", "train.updates=5") == 2
    error = capfd.readouterr().err
    assert "step-00000005 can't be written because the disk is full: it needs" in error
    assert "The last checkpoint is run/checkpoints/step-00000004" in error
    assert "Go on from it with: pathline train --resume run" in error
    assert digests(run / "checkpoints") == before
    assert train("--resume", "run", "train.updates=5") == 0


def test_two_trainings_cannot_write_in_one_folder(run, capfd):
    with locked(run):
        before = digests(run / "checkpoints")
        assert train("--resume", "run", "train.updates=9") == 2
        assert "run is being written by another process" in capfd.readouterr().err
    assert digests(run / "checkpoints") == before
    assert not is_locked(run)


HOLDER = """
import sys, time
from pathlib import Path
from pathline.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert is_locked(tmp_path)
        with pytest.raises(ValueError, match=rf"another process \(process {process.pid}\)"):
            locked(tmp_path).__enter__()
        process.kill()
    with locked(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_a_training_with_a_checkpoint(name, monkeypatch, capfd):
    real = loop.update

    def update(player, lanes, n):
        if n + 1 == 3:
            os.kill(os.getpid(), getattr(signal, name))
        return real(player, lanes, n)

    monkeypatch.setattr(loop, "update", update)
    out = "my runs/it's"
    assert train("debug", *TINY, "train.updates=9", "--out", out) == 130
    shown = capfd.readouterr().out
    assert "interrupted at update 3: my runs/it's/checkpoints/step-00000003" in shown
    (line,) = [x for x in shown.splitlines() if x.startswith("go on with: pathline ")]
    words = shlex.split(line.removeprefix("go on with: pathline "))
    assert words == ["train", "--resume", out]


def test_nohup_stays(monkeypatch):
    """A training that is told to outlive its terminal does."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopped()
    finally:
        signal.signal(signal.SIGHUP, old)


def test_weights_that_are_not_finite_are_not_saved(monkeypatch, capfd):
    """Losses and gradients were finite, and the last update ruined the weights."""
    real = loop.update

    def update(player, lanes, n):
        report = real(player, lanes, n)
        if n + 1 == 4:
            with torch.no_grad():
                next(player.network.parameters()).fill_(float("inf"))
        return report

    monkeypatch.setattr(loop, "update", update)
    settings = [*TINY, "train.keep_recent=1", "--out", "run"]
    assert train("debug", *settings, "train.updates=4") == 3
    told = capfd.readouterr()
    assert "The weights of update 4 are not finite" in told.err
    assert "The last checkpoint is run/checkpoints/step-00000002" in told.err
    assert not checkpoint.fault_of(Path("run/checkpoints/step-00000002"))
    assert not Path("run/checkpoints/step-00000004").exists()
    # it is told at the save of update 4 too, and the training would have stopped soon after
    assert "update 4: a checkpoint was not saved" in told.out


@pytest.mark.parametrize("settings", [["text=words"], ["sample.solver=jump"]])
def test_a_refused_run_leaves_no_folder(settings):
    assert train("digits", *TINY, "train.updates=1", *settings) == 2
    assert list(Path().iterdir()) == []
    assert train("digits", *TINY, "train.updates=1", *settings, "--out", "named") == 2
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("place", ["assemble", "restore"])
def test_out_of_memory_is_answered_with_what_to_lower(place, monkeypatch, capfd):
    def full(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 13824000000 bytes."
        )

    if place == "assemble":
        monkeypatch.setattr("pathline.runs.methods.assemble", full)
    else:
        monkeypatch.setattr(torch.nn.Module, "load_state_dict", full)
    assert train("--resume", "run", "train.updates=9") == 2
    error = capfd.readouterr().err
    assert "Out of memory" in error
    assert "train.accumulate" in error
    assert "fault in pathline" not in error
    assert "does not fit" not in error


@pytest.mark.parametrize("words", [[], ["train.updates=5"], ["--seed", "3"]])
def test_train_without_data_says_what_to_type(words, capfd):
    assert main(["train", *words]) == 2
    error = capfd.readouterr().err
    assert "pathline train FOLDER" in error
    assert "digits" in error
    assert "pathline train --resume latest" in error
    assert main(["codec", "train", *words]) == 2
    assert "pathline codec train PRESET" in capfd.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("place", ["", "/checkpoints/step-00000002"])
def test_a_run_in_the_place_of_pictures_is_offered_to_go_on(run, place, capfd):
    before = digests(run)
    assert train(f"run{place}") == 2
    error = capfd.readouterr().err
    assert "is a run and no folder of pictures" in error
    assert "pathline train --resume run\n" in error
    assert digests(run) == before


def test_half_a_picture_is_never_left(tmp_path, monkeypatch):
    from PIL import Image

    from pathline.images import save_png

    def full(_, file, *__, **___):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"a.png can't be written because the disk is full"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {})
    assert list(tmp_path.iterdir()) == []


def test_many_settings_are_not_taken_for_a_long_path():
    settings = [f"optimizer.lr={rate}" for rate in range(1, 40)]
    assert train("debug", *TINY, *settings, "text=words") == 2
