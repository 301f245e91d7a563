"""A method of two players and a frozen network: trained, killed and resumed, in one process or two.

As distillation does: a frozen teacher, an estimator that is updated every time, and a student that
is updated every second time, through teacher and estimator. Run as a script it is one process.
"""

import copy
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pathline.config.resolve import read
from pathline.evaluation.training import MEASUREMENTS, run_training
from pathline.runs import folder as runs
from pathline.runs.methods import METHODS
from pathline.training import checkpoint
from pathline.training import sharded_checkpoint as shards
from pathline.training.device import pick_precision
from pathline.training.ema import exponential
from pathline.training.loop import Progress, train_players
from pathline.training.optim import adamw, muon
from pathline.training.players import lane_rng
from pathline.training.team import Placement, Team, build_player, freeze, rehearse
from pathline.types import Batch, Cond

CPU = torch.device("cpu")
UPDATES = 5
TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=16", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
    *(f"train.updates={UPDATES}", "train.save_every=2", "train.probe_every=2", "device=cpu"),
]


def distil(run, parts, placement, *, through=True):
    """Teacher, estimator and student. through: the student's gradient passes the estimator."""
    student, teacher, estimator = parts.network, *(copy.deepcopy(parts.network) for _ in range(2))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (*teacher.parameters(), *estimator.parameters()):
            p += 0.05 * torch.randn(p.shape, generator=rng)
    teach = freeze(teacher, placement)

    def estimator_loss(network, batch, rng):
        point = parts.draw(batch.x1, batch.cond, rng)
        with torch.no_grad():
            target = student(point.xt, point.t, batch.cond).value
        value = (network(point.xt, point.t, batch.cond).value - target - point.v).square().mean()
        return value, {"mse": value.detach()}

    def student_loss(network, batch, rng):
        point = parts.draw(batch.x1, batch.cond, rng)
        y = network(point.xt, point.t, batch.cond).value
        score = estimator(y if through else y.detach(), point.t, batch.cond).value
        taught = teach(point.xt, point.t, batch.cond).value
        value = (y - taught).square().mean() + 0.1 * score.square().mean()
        return value, {"mse": value.detach()}

    shared = {"rate": lambda _: 1.0, "clip": run.train.clip}
    optimizers = partial(adamw, lr=1e-3), partial(muon, lr=1e-2)
    emas = [partial(exponential, decay=0.9)]
    players = [
        build_player(
            "estimator", estimator, estimator_loss, placement, optimizer=optimizers[0], **shared
        ),
        build_player(
            "student",
            student,
            student_loss,
            placement,
            optimizer=optimizers[1],
            emas=emas,
            every=2,
            **shared,
        ),
    ]
    return Team(players, {"teacher": teacher})


def train(out, strategy="none", resume=False, stop=None):
    """Train in this process, one of those that torchrun started or the only one."""
    METHODS["distil"] = METHODS["flow"]._replace(build_players=distil)
    MEASUREMENTS["distil"] = lambda _: lambda *_: [killer(stop)] if stop else []
    opened = runs.reopen(Path(out), print, runs.FLOW) if resume else None
    shares = ["train.accumulate=2"] if strategy == "none" else [f"train.strategy={strategy}"]
    run = read("digits", (), [*TINY, *shares]).run
    return run_training(run, Path(out), opened, Console(quiet=True), method="distil")


class Killed(Exception):
    pass


def killer(stop):
    """A hook that ends the process after so many updates, as a power cut does."""

    def kill(progress, _):
        if progress.update == stop:
            if "WORLD_SIZE" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed

    return kill


def tensors(run, update=UPDATES):
    return shards.flat(checkpoint.load(Path(run) / "checkpoints" / checkpoint.name(update)).tensors)


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert len(one) > 100
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(folder, what the training left in memory)."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, train(folder)


def test_a_killed_run_resumes_bit_for_bit(straight, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop=3)
    assert not (tmp_path / "parts/checkpoints/step-00000003").exists()
    train(tmp_path / "parts", resume=True)
    assert_equal(tensors(straight[0]), tensors(tmp_path / "parts"))


def test_each_player_has_its_files_numbers_and_learning_rate(straight):
    folder, _ = straight
    files = {key.partition("/")[0] for key in tensors(folder)}
    players = {"student", "student-ema-0.9", "student-optimizer", "estimator"}
    assert files == {*players, "estimator-optimizer"}  # and no teacher
    kinds = {key.rpartition("/")[2] for key in tensors(folder) if "optimizer/" in key}
    assert kinds == {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_update = {}
    for line in lines:
        by_update.setdefault(line["update"], {}).update(line)
    student = [n for n, line in by_update.items() if "student/loss" in line]
    assert student == [1, 3, 5]
    assert all("estimator/loss" in line for line in by_update.values())
    assert by_update[5]["lr/estimator"] == pytest.approx(1e-3)
    assert by_update[5]["lr/student"] == pytest.approx(1e-2)
    assert any(key.startswith("estimator/gradient/") for key in by_update[2])


def test_the_frozen_network_stays_as_it_was_in_eval_mode(straight):
    teacher = straight[1].team.frozen["teacher"]
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


class Scale(torch.nn.Module):
    """A network of one matrix."""

    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Linear(4, 4)

    def forward(self, x, *_):
        return self.mlp(x)


def small_team(through):
    """The estimator's loss is its own; the student's passes the estimator or not."""
    torch.manual_seed(0)
    estimator, student = Scale(), Scale()
    placement = Placement(CPU, pick_precision("fp32", CPU))

    def own(network, batch, rng):
        value = (network(batch.x1) - torch.randn(batch.x1.shape, generator=rng)).square().mean()
        return value, {}

    def other(network, batch, rng):
        y = network(batch.x1 + torch.randn(batch.x1.shape, generator=rng))
        value = estimator(y if through else y.detach()).square().mean() + y.mean()
        return value, {}

    shared = {"rate": lambda _: 1.0, "optimizer": partial(adamw, lr=0.1)}
    first = build_player("estimator", estimator, own, placement, **shared)
    return Team([first, build_player("student", student, other, placement, begin=1, **shared)])


def small_run(through, updates=4):
    team, reports = small_team(through), []
    x1 = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    batch = Batch(x1, Cond(), Cond(), torch.arange(6))
    rehearse(team, batch)
    train_players(
        team.players,
        lambda p: [(batch, lane_rng(0, p.update, 0, CPU))],
        Progress(),
        updates=updates,
        batch=6,
        hooks=[lambda _, of: reports.append(set(of))],
        complain=pytest.fail,
    )
    return [player.network.mlp.weight.detach() for player in team.players], reports


def test_the_gradients_of_a_player_stay_its_own():
    """What the student's loss leaves in the estimator moves nothing there; the control does."""
    (estimator, student), _ = small_run(through=True)
    (alone, cut), _ = small_run(through=False)
    assert torch.equal(estimator, alone)
    assert not torch.equal(student, cut)


def test_a_player_begins_at_its_update():
    both = {"estimator", "student"}
    assert small_run(through=True)[1] == [{"estimator"}, both, both, both]


def launch(*arguments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_and_resume_after_a_kill(strategy, straight, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, output = launch(strategy, whole)
    assert code == 0, output
    one, two = tensors(straight[0]), tensors(whole)
    assert one.keys() == two.keys()
    assert max((one[k].double() - two[k].double()).abs().max().item() for k in one) < 1e-4
    assert launch(strategy, parts, "3")[0] != 0  # killed after three updates
    assert not (parts / "checkpoints" / checkpoint.name(UPDATES)).exists()
    code, output = launch(strategy, parts, "resume")
    assert code == 0, output
    assert_equal(two, tensors(parts))


if __name__ == "__main__":
    how, where, *rest = sys.argv[1:]
    train(where, how, resume=rest == ["resume"], stop=int(rest[0]) if rest[:1] == ["3"] else None)
