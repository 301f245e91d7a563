"""A run in several processes is the run of one: really started by torchrun's launcher, on gloo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pathline.cli import main
from pathline.training import checkpoint
from pathline.training import sharded_checkpoint as shards

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=64", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
    *("train.updates=4", "train.save_every=2", "train.ema=[0.9]"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    """`pathline train` as a person calls it: (exit code, what it printed)."""
    command = [sys.executable, "-m", "pathline", "train", *map(str, arguments)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=120)
    return done.returncode, done.stdout + done.stderr


def tensors(run, update=4):
    groups = checkpoint.load(Path(run) / "checkpoints" / checkpoint.name(update)).tensors
    return shards.flat(groups)


def apart(one, two):
    """The greatest difference of any two tensors of the same name."""
    assert one.keys() == two.keys()
    assert len(one) > 50
    return max((one[k].double() - two[k].double()).abs().max().item() for k in one)


def cut(run, name, update=2):
    """A copy of a run as a kill after `update` leaves it."""
    shutil.copytree(run, name)
    for folder in Path(name, "checkpoints").glob("step-*"):
        if folder.name > checkpoint.name(update):
            shutil.rmtree(folder)
    return name


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process that accumulates what two would share."""
    where = tmp_path_factory.mktemp("one") / "run"
    assert main(["train", "digits", *TINY, "train.accumulate=2", "--out", str(where)]) == 0
    return where


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_are_one_with_twice_the_accumulation(strategy, one):
    code, said = train("digits", *TINY, f"train.strategy={strategy}", "--procs=2", "--out", "two")
    assert code == 0, said
    assert said.count("done at update 4") == 1  # one of the two speaks
    assert apart(tensors(one), tensors("two")) < 1e-6
    assert Path("two/metrics.jsonl").read_text().count("\n") == 4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_bf16_trains_validates_draws_and_measures_in_two_processes(strategy):
    """Everything that calls the network beside an update, with gathered bf16 weights."""
    looks = ["train.sample_every=4", "train.validate_every=4", "sample.steps=2", "sample.count=4"]
    looks += ["eval.every=4", "eval.n=20", "train.probe_every=2", "train.precision=bf16"]
    many = [f"train.strategy={strategy}", "--procs=2"]
    code, said = train("digits", *TINY, *looks, *many, "--out", "two")
    assert code == 0, said
    assert "Warning" not in said
    assert len(list(Path("two/samples").glob("*.png"))) == 2
    text = Path("two/metrics.jsonl").read_text()
    assert all(word in text for word in ("eval/FD-pca", "val/loss", "gradient/mlp"))
    assert torch.isfinite(tensors("two")["network/backbone.final.linear.weight"]).all()


@pytest.mark.slow
def test_other_noise_is_noticed(one):
    """The control: one lane instead of two."""
    assert train("digits", *TINY, "--out", "other")[0] == 0
    assert apart(tensors(one), tensors("other")) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("then", ["ddp", "fsdp2", "none"])
@pytest.mark.parametrize("first", ["ddp", "fsdp2", "none"])
def test_a_run_goes_on_in_other_processes_bit_for_bit(first, then, one):
    if first == "none":
        whole = one
    else:
        whole = Path("whole")
        assert (
            train("digits", *TINY, f"train.strategy={first}", "--procs=2", "--out", whole)[0] == 0
        )
    run = cut(whole, "cut")
    shares = ["train.accumulate=2"] if then == "none" else ["train.accumulate=1", "--procs=2"]
    code, said = train("--resume", run, f"train.strategy={then}", *shares)
    assert code == 0, said
    assert ("resume a run of" in said) == ((first == "none") != (then == "none"))
    found, wanted = tensors(run), tensors(whole)
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--procs=3"], "train.batch=64 is not divisible by --procs 3"),
        (["--procs=0"], "not divisible by --procs 0"),
        (["--procs=2", "train.strategy=dpp"], "train.strategy"),
        (["train.strategy=fsdp2", "train.precision=fp16"], "fsdp2 has no loss scaler"),
    ],
)
def test_what_cannot_be_is_one_message(arguments, wanted, capfd):
    assert main(["train", "digits", *TINY, *arguments]) == 2
    said = capfd.readouterr().err
    assert wanted in said
    assert said.count("pathline:") == 1
    assert not Path("runs").exists() or not list(Path("runs").glob("*/run.yaml"))


def test_processes_without_a_strategy_are_refused(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "digits", *TINY]) == 2
    assert "train.strategy=ddp (or fsdp2)" in capfd.readouterr().err


def test_a_strategy_goes_on_in_one_process(one):
    """What was trained in many can be gone on with in one, without torchrun."""
    run = cut(one, "cut")
    assert main(["train", "--resume", run, "train.strategy=fsdp2"]) == 0
    assert apart(tensors(one), tensors(run)) < 1e-6


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_goes_on(one):
    """torchrun's elastic restart: the others are stopped too, and all go on from the newest."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun += ["--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    run = ["train", "digits", *TINY, "train.strategy=ddp", "--out", "again"]
    dies = (
        "import os, signal, sys; from pathline.runs import saver as saving; keep = saving.attempt\n"
        "def attempt(*given, **named):\n"
        "    keep(*given, **named)\n"
        "    first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "    if first and os.environ['RANK'] == '0': os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pathline.evaluation import training as beside; beside.attempt = attempt\n"
        "from pathline.cli import main; sys.exit(main(sys.argv[1:]))\n"
    )
    Path("dies.py").write_text(dies)
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "dies.py", *map(str, run)]
    done = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at update 2 of 4" in done.stdout
    assert apart(tensors(one), tensors("again")) < 1e-6
