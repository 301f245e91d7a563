"""A contrastive run knows the mean velocity that its guidance takes back, with the data gone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pathline.cli import main
from pathline.compatibility import push_share
from pathline.config.pick import pick
from pathline.config.run import Run
from pathline.data.sources.rows import digits
from pathline.flow.paths import PATHS, STRAIGHT, TRIG, VP, draw_point, velocity
from pathline.objectives.terms import compose, contrastive, mse
from pathline.runs.contrastive_mean import mean_velocity, measure_mean
from pathline.runs.dataset import Dataset
from pathline.types import Cond, Output

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=256", "train.validate_every=0", "train.updates=1", "sample.count=4"),
    *("train.sample_every=1", "sample.steps=2"),
]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*arguments):
    return main(["train", *map(str, arguments)])


def some_data(x1, bucket=None):
    def rows_of(rows, flips, _):
        found = x1[rows]
        return (
            found if flips is None else torch.where(flips.view(-1, 1, 1, 1), found.flip(-1), found)
        )

    rows = torch.arange(len(x1))
    nothing = Cond()
    return Dataset(
        [], (), None, None, rows, rows, rows_of, lambda *_: nothing, nothing, lambda r: r, bucket
    )


def settings(path="straight", **data):
    run = Run(path=pick(path), terms={"mse": 2.0, "contrastive": 0.1})
    return replace(run, data=replace(run.data, **data))


@pytest.mark.parametrize(("name", "path"), [("straight", STRAIGHT), ("trig", TRIG), ("vp", VP)])
def test_the_mean_is_that_of_the_drawn_velocities(name, path):
    """Their noise is nothing on average, so it needs none of it."""
    rng = torch.Generator().manual_seed(3)
    x1 = 2 + torch.randn(3000, 1, 2, 2, generator=rng)
    run = settings(name)
    found = measure_mean(run, path, some_data(x1), CPU)
    t = torch.sigmoid(torch.randn(3000, generator=rng))  # the default draw
    drawn = velocity(path, torch.randn(x1.shape, generator=rng), x1, t).mean(0)
    assert torch.allclose(found, drawn, atol=0.15)
    assert name != "straight" or torch.allclose(found, x1.mean(0), atol=1e-5)


def test_mirrored_pictures_and_several_sizes_count():
    x1 = torch.randn(100, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    both = measure_mean(settings(flip=True), STRAIGHT, some_data(x1), CPU)
    assert torch.allclose(both, (x1 + x1.flip(-1)).mean(0) / 2, atol=1e-6)
    bucket = torch.arange(100) % 3
    sizes = measure_mean(settings(), STRAIGHT, some_data(x1, bucket), CPU)
    assert sizes.shape == (2, 1, 1)
    assert torch.allclose(sizes, x1.mean((0, 2, 3))[:, None, None], atol=1e-6)


@pytest.mark.parametrize("name", ["straight", "trig"])
def test_the_least_loss_of_a_gaussian_leads_back_to_flow_matching(name):
    """A line for each of two times is fitted by the real loss, which is a parabola: one step."""
    path, n = PATHS[name], 100_000
    rng = torch.Generator().manual_seed(1)
    x1 = (1.5 + 0.7 * torch.randn(n, 1, 1, 1, generator=rng)).double()
    late = torch.arange(n) % 2 == torch.randint(0, 2, (n,), generator=rng)

    def times(x1, _):
        return torch.where(late, 0.8, 0.2).to(x1)

    point = draw_point(x1, None, rng, path=path, draw=times, couple=lambda x0, *_: x0)
    side = torch.stack([~late, late], 1).double()  # which line a row is on
    features = torch.cat([side, side * point.xt.view(n, 1)], 1)

    def best(share):
        criterion = compose({"mse": (1.0, mse), "contrastive": (share, contrastive)})

        def loss(line):
            return criterion(point, Output((features @ line).view_as(x1)))[0]

        line = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(line), line)
        bend = torch.autograd.functional.hessian(loss, line)
        return features @ (-torch.linalg.solve(bend, slope)).detach()

    plain, learnt, share = best(1e-9), best(0.3), 0.3
    mean = velocity(path, torch.zeros(n), torch.ones(n), point.t).mean() * x1.mean()
    assert torch.allclose(learnt, (plain - share * mean) / (1 - share), atol=0.05)
    assert torch.allclose((1 - share) * learnt + share * mean, plain, atol=0.035)
    assert not torch.allclose(learnt, plain, atol=0.1)  # the control
    if name == "trig":  # others' velocities are of their own times, not of this one
        here = path.d_alpha(point.t) * x1.mean()
        assert not torch.allclose((1 - share) * learnt + share * here, plain, atol=0.1)


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ({"mse": 1.0}, 0.0),
        ({"mse": 2.0, "contrastive": 0.1}, 0.05),
        ({"mse": 1.0, "contrastive": {"weight": 0.05}}, 0.05),
        ({"mse": 1.0, "contrastive": {"weight": 0.05, "apart": True}}, 0.0),
        ({"mse": 1.0, "contrastive": 0.0}, 0.0),
    ],
)
def test_the_share_is_that_of_the_weights(terms, wanted):
    assert push_share(Run(terms=terms)) == pytest.approx(wanted)


def test_a_checkpoint_alone_draws_with_contrastive_guidance(capsys):
    guided = ["sample.guidance=contrastive", "sample.guidance.scale=2"]
    assert train("digits", *TINY, "terms.contrastive=0.05", *guided, "--out", "run") == 0
    alone = Path(shutil.move("run/checkpoints/step-00000001", "step-00000001"))
    shutil.rmtree("run")
    assert main(["generate", str(alone), "--n", "2", "--out", "drawn"]) == 0
    with_it = {file.name: file.read_bytes() for file in Path("drawn").glob("*.png")}
    assert main(["generate", str(alone), "--n", "2", "--out", "w", "guidance=interval"]) == 0
    assert with_it.keys() == {file.name for file in Path("w").glob("*.png")}
    capsys.readouterr()
    held = mean_velocity(Run(terms={"mse": 1.0, "contrastive": 0.05}), alone)
    source = digits()
    pixels = torch.stack([source.read(row).image for row in range(source.count)]).float()
    assert torch.allclose(held.mean, (pixels / 127.5 - 1).mean(0), atol=0.05)  # some are held out


def test_a_resume_takes_the_mean_of_its_checkpoint_and_makes_a_missing_one(capsys):
    assert train("digits", *TINY, "terms.contrastive=0.05", "--out", "run") == 0
    first = Path("run/checkpoints/step-00000001")
    manifest = first / "manifest.json"
    listed = json.loads(manifest.read_text())
    del listed["files"]["push.safetensors"], listed["digest"]
    (first / "push.safetensors").unlink()
    manifest.write_text(json.dumps(listed))
    ask = ["generate", "run", "--n", "1", "--guidance", "2", "guidance=contrastive"]
    assert main(ask) == 2
    assert "pathline train --resume RUN" in " ".join(capsys.readouterr().err.split())
    assert train("--resume", "run") == 0
    assert main(ask) == 0


def test_a_run_without_the_term_is_refused_before_it_trains(capsys):
    assert train("digits", *TINY, "sample.guidance=contrastive", "--out", "run") == 2
    assert "terms.contrastive=0.05" in " ".join(capsys.readouterr().err.split())
    assert not Path("run/run.yaml").exists()
