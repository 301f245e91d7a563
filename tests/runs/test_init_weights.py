"""A training that begins with another run's weights: which it takes, which it can't."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from pathline.assemble import assemble
from pathline.cli import main
from pathline.config.resolve import read
from pathline.runs import folder as runs
from pathline.runs import init_weights
from pathline.runs.sampling import parts_of, weights_of
from pathline.training import checkpoint
from pathline.types import Call

NET = ["backbone.width=16", "backbone.depth=1", "backbone.heads=2"]
TINY = [
    *NET, "train.precision=fp32", "train.batch=256", "train.validate_every=0",
    "train.updates=2", "train.sample_every=0", "train.ema=[0.5]", "backbone.time_scale=1",
]  # fmt: skip
SCENES = ["data.source.count=40", "train.batch=8", "backbone.bottleneck=0"]
CPU = torch.device("cpu")


def train(*arguments):
    return main(["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    where = tmp_path_factory.mktemp("source") / "digits"
    more = ["optimizer.lr=0.1", "schedule=constant", "schedule.warmup=0"]
    assert train("digits", *TINY, *more, "--out", where) == 0
    return where


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    where = tmp_path_factory.mktemp("words") / "shapes"
    assert train("quickstart", *TINY, *SCENES, "--out", where) == 0
    return where


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begun(preset, init, *more):
    """Parts of a run that begins with `init`, and what was told."""
    run = read(preset, (), [*TINY, *more, f"init={init}"]).run
    heard = []
    run = init_weights.resolve_init(run, None, heard.append)
    facts = runs.open_run(Path(init), print).facts
    parts = assemble(run, facts)
    init_weights.load_init(run, parts, None, heard.append)
    return parts, heard


def asked(parts, *sides):
    """x, two times and a condition, for a network of numbers that are not all 0."""
    rng = torch.Generator().manual_seed(0)
    x, t = torch.randn(6, *parts.shape(), generator=rng), torch.linspace(0, 0.9, 6)
    return x, t, parts.text.encode([0, 1, 2, None, 4, 5]), *sides


def test_a_flow_becomes_a_mean_flow_whose_average_is_its_velocity_for_every_r(source):
    flow, named = parts_of(runs.open_run(source, print), ema=None, device=CPU)
    mean_flow, heard = begun("digits-mean-flow", source)
    assert named == "EMA 0.5"
    tensors = len(flow.network.state_dict())
    assert heard == [f"init: {tensors} tensors of {source} (EMA 0.5, update 2); new: interval"]
    x, t, cond = asked(flow)
    v = flow.network(x, t, cond).value
    assert v.abs().mean() > 0.01
    for r in (t, t + 0.05, torch.ones(6)):
        assert torch.equal(mean_flow.network(x, t, cond, Call(r)).value, v)
    field = mean_flow.objective.field(mean_flow.network, cond)
    assert torch.equal(field(x, 0.0, 1.0), flow.objective.field(flow.network, cond)(x, 0.0))
    plain, _ = begun("digits-mean-flow", source)  # the control: an interval that is read
    torch.nn.init.ones_(plain.network.backbone.interval.down.bias)
    assert not torch.equal(plain.network(x, t, cond, Call(t)).value, v)


def test_the_interval_embedding_learns_from_there(source):
    parts, _ = begun("digits-mean-flow", source)
    x, t, cond = asked(parts)
    parts.network(x, t, cond, Call(torch.ones(6))).value.square().sum().backward()
    assert parts.network.backbone.interval.down.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("preset", ["digits", "digits-mean-flow"])
def test_the_same_network_takes_every_tensor(preset, source):
    if preset == "digits-mean-flow":
        assert train(preset, *TINY, "--out", "own") == 0
        source = Path("own")
    parts, heard = begun(preset, source)
    wanted, _ = weights_of(runs.open_run(source, print), None)
    assert all(torch.equal(value, wanted[k]) for k, value in parts.network.state_dict().items())
    assert heard[-1].endswith("(EMA 0.5, update 2)")


def test_a_word_encoder_comes_along(words):
    takes_r = ["backbone.takes_r=true", "objective=mean_flow", "objective.prediction=x1"]
    parts, heard = begun("quickstart", words, *SCENES, *takes_r)
    flow, _ = parts_of(runs.open_run(words, print), ema=None, device=CPU)
    assert heard[-1].endswith("new: interval")
    cond = parts.text.encode(["a red circle"])
    x, t = torch.ones(1, *parts.shape()), torch.tensor([0.3])
    now = parts.network(x, t, cond, Call(torch.tensor([0.9]))).value
    assert torch.equal(now, flow.network(x, t, cond).value)


def test_transitions_keep_the_backbone_and_learn_a_head_afresh(source):
    parts, heard = begun("digits-dtm", source)
    assert heard[-1].endswith("; new: head; not used: final")
    assert parts.network.head is not None
    flow, _ = parts_of(runs.open_run(source, print), ema=None, device=CPU)
    x, t, cond = asked(flow)
    assert torch.equal(parts.network.backbone(x, t, cond).hidden, flow.network(x, t, cond).hidden)


def test_a_training_begins_there_and_goes_on_without_the_other_run(source, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in source.rglob("*"):
        to = copy / file.relative_to(source)
        to.mkdir(exist_ok=True) if file.is_dir() else to.write_bytes(file.read_bytes())
    assert train("digits-mean-flow", *TINY, f"init={copy}", "--out", "run") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "new: interval" in told
    asked_for = Path("run/run.yaml").read_text()
    assert f"init: {copy}/checkpoints/step-00000002" in asked_for
    copy.rename(tmp_path / "gone")
    assert train("--resume", "run", "train.updates=3") == 0
    assert "new: " not in capsys.readouterr().out
    assert main(["generate", "run", "--n", "1"]) == 0
    assert train("--resume", "run", "train.updates=4", f"init={source}") == 2
    assert "goes on with weights of its own" in " ".join(capsys.readouterr().err.split())


def test_a_training_stopped_before_its_first_checkpoint_begins_there_again(source):
    assert train("digits", *TINY, f"init={source}", "--out", "run") == 0
    first = checkpoint.load(Path("run/checkpoints/step-00000002")).tensors["network"]
    for file in sorted(Path("run/checkpoints").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    Path("run/latest").unlink()
    assert train("--resume", "run") == 0
    again = checkpoint.load(Path("run/checkpoints/step-00000002")).tensors["network"]
    assert all(torch.equal(again[key], value) for key, value in first.items())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["backbone.width=32"], "of another shape: backbone.patch.weight 16x4, expected 32x4"),
        (["backbone.width=32"], "Settings that differ: backbone.width was 16, is 32."),
        (["backbone.depth=2"], "missing: backbone.blocks.1."),
        (["backbone=ddt"], "Settings that differ: backbone.name was dit, is ddt."),
        (["text=none"], "Tensors of no use: backbone.label_table.weight."),
        (["text=none"], "Settings that differ: text.name was labels"),
        (["data.channels=3"], "data.channels was 1, is 3"),
        (["objective.prediction=x1"], "objective.prediction was v, is x1"),
        (["path=trig"], "path.name was straight, is trig"),
        (["backbone.time_scale=10"], "this network: backbone.time_scale was 1.0, is 10.0."),
        (["backbone.heads=1"], "backbone.heads was 2, is 1."),
    ],
)
def test_another_network_is_refused_and_the_settings_named(more, says, source, capsys):
    backbone = [*NET, "backbone.takes_r=true", "backbone.patch=2"]
    ask = ["digits-mean-flow", *TINY, *backbone, *more, f"init={source}", "--out", "run"]
    assert train(*ask) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("run/run.yaml").exists()


@pytest.mark.parametrize(
    ("has", "other", "says"),
    [
        (
            ["digits", "backbone.depth=4", "backbone.route=sprint", "backbone.route_after=1"],
            "backbone.route_before=1",
            "would differ in this network: backbone.route_before was 2, is 1.",
        ),
        (
            ["digits-dtm", "objective.head=transformer", "objective.head_group=0"],
            "objective.head_group=2",
            "would differ in this network: objective.head_group was 0, is 2.",
        ),
    ],
)
def test_what_no_shape_shows_and_weights_hang_on_is_refused(has, other, says):
    preset, *more = has
    assert train(preset, *TINY, *more, "train.updates=1", "--out", "joined") == 0
    begun(preset, "joined", *more)
    with pytest.raises(ValueError, match=re.escape(says)):
        begun(preset, "joined", *more, other)


def test_where_the_route_lay_is_nothing_to_weights_without_a_join(source):
    _, heard = begun("digits", source, "backbone.route_before=1")
    assert heard[-1].startswith("init: ")


@pytest.mark.parametrize(
    ("init", "says"),
    [
        (
            "runs/digitz-1",
            "init=runs/digitz-1: runs/digitz-1 is not a run folder: it does not",
        ),
        (".", "init=.: . is not a run folder: it has no run.yaml"),
    ],
)
def test_what_is_no_run_is_refused_before_data_is_read(init, says, capsys):
    assert train("digits", *TINY, f"init={init}", "--out", "run") == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


def test_other_words_are_refused_and_named(words, capsys):
    fewer = [*SCENES, "data.source.count=8"]
    assert train("quickstart", *TINY, *fewer, f"init={words}", "--out", "run") == 2
    assert "they are not the same (bottom, in, left" in " ".join(capsys.readouterr().err.split())


def test_other_classes_are_refused_by_their_number(source, tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "set" / name / "1.png")
    like = ["data.size=8", "data.channels=1", "text=labels"]
    ask = [tmp_path / "set", *TINY, *like, "train.batch=2", f"init={source}"]
    assert train(*ask, "--out", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has 10 classes, this data has 2" in told


def test_other_sizes_are_told_of(source):
    _, heard = begun("digits", source, "data.size=16")
    assert heard[-1].endswith("; settings that differ: data.size was 8, is 16")
