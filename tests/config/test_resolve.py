"""What a person typed to a Run, and where each value came from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pathline.config.layers import build, flatten
from pathline.config.pick import Pick, pick
from pathline.config.resolve import PRESETS, fill, read
from pathline.config.run import Run
from pathline.config.yaml_io import Entry


@pytest.fixture
def file(tmp_path):
    def file(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


def refusal(*args, **options):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(*args, **options)
    return str(error.value)


def test_nothing_named_is_defaults():
    settings = read()
    assert settings.run.train.updates == 10_000
    assert set(settings.origins.values()) == {"default"}


def test_precedence_and_origins(file):
    first = file("train: {updates: 10, batch: 64}\nobjective:\n  prediction: x1\n", "first.yaml")
    second = file("train:\n  updates: 20\n", "second.yaml")
    run, _, origins = read(
        "digits", [first, second], ["train.clip=2", "seed=1"], {"seed": 2, "device": None}
    )
    assert (run.train.updates, run.train.batch, run.train.clip, run.seed) == (20, 64, 2.0, 2)
    assert run.objective.options == {"prediction": "x1", "dropout": 0.1}
    assert origins["train.updates"] == f"{second}:2"
    assert origins["train.batch"] == f"{first}:1"
    assert origins["objective.prediction"] == f"{first}:3"
    assert origins["objective.dropout"] == "preset digits"
    assert origins["train.clip"] == "command line"
    assert origins["seed"] == "--seed"
    assert origins["device"] == "default"
    assert origins["backbone.width"] == "preset digits"


def test_another_row_drops_the_presets_options():
    run, _, origins = read("digits", overrides=["times=uniform", "schedule=constant"])
    assert run.times.options == {}
    assert run.schedule.options == {}
    assert origins["times.name"] == "command line"
    assert "times.mean" not in origins


@pytest.mark.parametrize(
    "order",
    [["times=skewed", "times.power=2"], ["times.power=2", "times=skewed"]],
)
def test_row_and_option_in_any_order(order):
    times = read("digits", overrides=order).run.times
    assert (times.name, times.options) == ("skewed", {"power": 2})


def test_terms():
    run, _, origins = read(
        "digits", overrides=["terms.huber=0.5", "terms.huber.delta=2", "terms.mse=0"]
    )
    assert run.terms == {"mse": 0.0, "huber": {"weight": 0.5, "delta": 2}}
    assert origins["terms.huber.weight"] == "command line"


def test_lists():
    for text in ("train.ema=[0.9, 0.99]", "train.ema=0.9,0.99"):
        assert read("digits", overrides=[text]).run.train.ema == (0.9, 0.99)


def test_settings_without_a_preset():
    assert (
        read("train.updates=5", overrides=["train.batch=2"]).run.train
        == read(overrides=["train.updates=5", "train.batch=2"]).run.train
    )


def test_own_folder(tmp_path):
    folder = tmp_path / "my.pictures"
    folder.mkdir()
    settings = read(str(folder))
    assert settings.run.name == "my.pictures"
    assert settings.run.data.source.options == {"path": str(folder)}
    assert settings.run.backbone == PRESETS["own-small"].backbone
    assert settings.origins["data.source.path"] == "command line"
    assert settings.origins["backbone.width"] == "preset own-small"


def test_a_size_chooses_the_preset_of_own_pictures(tmp_path, file):
    fitted = [Entry("size", "medium", "measured"), Entry("data.flip", False, "your pictures")]
    for overrides, size in (([], "medium"), (["size=large"], "large"), (["size=auto"], "medium")):
        settings = read(str(tmp_path), overrides=overrides, fitted=fitted)
        assert settings.run.size == size
        assert settings.run.backbone == PRESETS[f"own-{size}"].backbone
        assert not settings.run.data.flip
        assert settings.origins["data.flip"] == "your pictures"
    assert read(str(tmp_path), [file("size: large\n")]).run.size == "large"
    assert read(str(tmp_path), overrides=["data.flip=true"], fitted=fitted).run.data.flip
    assert "size=huge is wrong because it must be one of auto, small, medium, large" in refusal(
        str(tmp_path), [], ["size=huge"]
    )


@pytest.mark.parametrize("what", ["digits", None])
def test_a_size_is_refused_where_it_chooses_nothing(what):
    assert "size: Choosing large is for a folder of your own pictures" in refusal(
        what, overrides=["size=large"]
    )


@pytest.mark.parametrize("what", ["own-small", "run.yaml"])
def test_a_size_that_it_has_already_is_no_mistake(what, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file("size: small\ndata: {source: {name: folder, path: pictures}}\n", "run.yaml")
    given = ["size=small", "data.source=folder", "data.source.path=pictures"]
    assert read(what, overrides=given).run.size == "small"


def test_a_run_file_replaces_defaults_whole(file):
    path = file("terms: {l1: 1.0}\nsample: {guidance: cfg}\n")
    run = read(str(path)).run
    assert run.terms == {"l1": 1.0}
    assert run.sample.guidance.options == {}
    assert read(base=path, overrides=["seed=3"]).run.terms == {"l1": 1.0}


def test_all_problems_at_once_with_their_origins(file):
    mine = file("train:\n  updats: 5\n  batch: many\nmodel: {depth: 3}\nlr: 1e-4\n")

    def adamw(network, *, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.95): ...

    overrides = ["train.accumulate=0", "optimizer.lrr=3"]
    said = refusal(
        "digits", [mine], overrides, {"seed": -1}, tables={"optimizer": {"adamw": adamw}}
    ).splitlines()
    assert said[0] == "7 problems in the settings:"
    assert f"  {mine}:2: train.updats is not a setting. Did you mean train.updates?" in said
    whole = "is wrong because it must be a whole number"
    assert f"  {mine}:3: train.batch=many {whole} of 1 or more." in said
    assert f"  {mine}:4: model is not a setting." in said
    assert f"  {mine}:5: lr is not a setting. Did you mean optimizer.lr?" in said
    assert f"  command line: train.accumulate=0 {whole} of 1 or more." in said
    assert f"  --seed: seed=-1 {whole} in [0, {2**63 - 1}]." in said
    lrr = "  command line: optimizer.lrr: The optimizer 'adamw' takes no option 'lrr'."
    assert any(line.startswith(lrr) for line in said)
    assert "config show" in said[-1]


def test_one_problem_is_one_line():
    assert refusal("digits", overrides=["train.batch=x"]) == (
        "command line: train.batch=x is wrong because it must be a whole number of 1 or more."
    )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("digts", "Did you mean 'digits'? There are: anime-256"),
        ("zzz", "no preset called 'zzz', and no folder. There are"),
        ("./zzz", "There is no folder or file './zzz'"),
        ("some/where.tar", "There is no folder or file 'some/where.tar'"),
        ("no.yaml", "There is no settings file no.yaml"),
        ("own-small", "data.source is auto, which needs your images"),
    ],
)
def test_unknown_what(what, said):
    assert said in refusal(what)


@pytest.mark.parametrize("text", ["foo", "=3", "digits2"])
def test_no_setting(text):
    assert f"{text!r} is no setting: write key=value" in refusal("digits", overrides=[text])


EMPTY = "train:\n  # batch: 16\noptimizer:\n  # lr: 1e-3\ndata: {source: , buckets: ~}\nterms: {}\n"


def test_an_empty_section_keeps_the_presets(file):
    """Also where another layer sets something in it, and with its origin."""
    overrides = ["train.updates=50", "optimizer.lr=0.005"]
    plain, empty = read("emoji", (), overrides), read("emoji", [file(EMPTY)], overrides)
    assert empty.run == plain.run
    assert empty.origins == plain.origins
    assert empty.origins["train.batch"] == empty.origins["optimizer.name"] == "preset emoji"
    assert read("emoji", (), ["train=", "optimizer=null", *overrides]).run == plain.run


@pytest.mark.parametrize("value", ["[]", "[1, 2]", "[{batch: 3}]", "3", "text", "true"])
def test_a_section_that_is_none_is_refused_whatever_lies_over_it(file, value):
    path = file(f"seed: 1\ntrain: {value}\n")
    said = refusal("emoji", [path], ["train.batch=4"])
    assert said.startswith(f"{path}:2: train=")
    assert "it is a section" in said
    said = refusal("emoji", (), [f"train={value}", "train.batch=4"])
    assert said.startswith("command line: train=")


@pytest.mark.parametrize("value", ["[muon]", "3", "true"])
def test_a_row_that_is_none_is_refused_whatever_lies_over_it(file, value):
    path = file(f"optimizer: {value}\n")
    assert refusal("emoji", [path], ["optimizer.lr=4"]).startswith(f"{path}:1: optimizer=")


def test_origins_of_a_row_and_its_options(file):
    """A section in a file is no source of a name that it leaves out."""
    path = file("optimizer:\n  lr: 1e-3\ntimes: uniform\nsample: {solver: {name: heun}}\n")
    origins = read("debug", [path]).origins
    assert origins["optimizer.lr"] == f"{path}:2"
    assert origins["optimizer.name"] == "default"
    assert origins["times.name"] == f"{path}:3"
    assert origins["sample.solver.name"] == f"{path}:4"
    line = read("debug", (), ["sample={steps: 3, solver: {name: heun}}"]).origins
    assert line["sample.steps"] == line["sample.solver.name"] == "command line"
    assert line["sample.batch"] == "preset debug"


def test_a_row_typed_wrong_is_blamed_on_who_typed_it_last(file):
    def euler(x, *, eta: float = 0.5): ...

    path = file("sample:\n  solver:\n    name: euler\n")
    tables = {"sample.solver": {"euler": euler}}
    said = refusal(None, (), ["sample.solver=eulr"], base=path, tables=tables)
    assert said.startswith("command line: sample.solver: There is no solver step called 'eulr'.")


@pytest.mark.parametrize(
    "text", ["optimizer: muon\noptimizer.name: adamw\n", "terms: {l1: 1, l1.weight: 2}\n"]
)
def test_a_bare_name_and_its_key_are_one_setting(file, text):
    assert "is set twice, first at" in refusal("debug", [file(text)])


def test_a_mapping_on_the_command_line_has_each_key_once():
    said = refusal("debug", (), ["train={batch: 3, batch: 4}"])
    assert said == "command line: train: batch is set twice; keep one."


def test_an_option_that_another_row_lacks_is_blamed_on_who_chose_the_row(file):
    def folder(*, path: str): ...

    def hub(*, repo: str): ...

    base = file("data: {source: {name: hub, repo: x}}\n", "base.yaml")
    tables = {"data.source": {"folder": folder, "hub": hub, "web": hub}}
    said = refusal(None, (), ["data.source=web"], base=base, tables=tables)
    assert said.startswith("command line: data.source.repo: The data source 'web' needs repo")


def test_missing_config():
    assert "There is no settings file" in refusal("digits", [Path("no.yaml")])


class Row(NamedTuple):
    build: Callable
    suggests: Mapping[str, Any] = {}


def mean(path, *, prediction: str = "v", dropout: float = 0.0): ...


SUGGESTED = {
    "backbone.takes_r": True,
    "terms": {"adaptive": {"power": 0.5}},
    "sample.solver": "jump",
    "sample.batch": 1,
}
TABLES = {"objective": {"mean": Row(mean, SUGGESTED), "flow": mean}}


def test_the_chosen_row_suggests_what_nobody_set():
    run, tree, origins = read("digits", overrides=["objective=mean"], tables=TABLES)
    assert run.backbone.options == {**PRESETS["digits"].backbone.options, "takes_r": True}
    assert run.terms == {"adaptive": {"power": 0.5}}  # in place of the default, mse
    assert run.sample.solver == Pick("jump")
    assert run.sample.batch == 500  # which the preset sets
    for key in ("backbone.takes_r", "terms.adaptive.power", "sample.solver.name"):
        assert origins[key] == "objective=mean"
    assert origins["backbone.width"] == origins["sample.batch"] == "preset digits"
    assert build(Run, tree) == run
    assert read("digits", tables=TABLES).run == PRESETS["digits"]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("backbone.takes_r=false", "backbone.takes_r", False),
        ("sample.solver=heun", "sample.solver.name", "heun"),
        ("sample.solver.order=2", "sample.solver.name", "euler"),
        ("terms.l1=1", "terms.mse", 1.0),
        ("sample.batch=7", "sample.batch", 7),
    ],
)
def test_what_a_person_sets_wins_over_a_suggestion(override, key, value):
    overrides = [override, "objective=mean"]
    settings = read("digits", overrides=overrides, tables=TABLES)
    assert flatten(settings.tree)[key] == value
    assert settings.origins[key] in ("command line", "default")


def test_another_row_takes_suggestions_again(file):
    path = file("objective: flow\nbackbone: {name: dit, takes_r: false, width: 8}\n")
    overrides = ["objective=mean", "backbone=ddt"]
    run = read(base=path, overrides=overrides, tables=TABLES).run
    assert run.backbone == pick("ddt", takes_r=True)  # the file's was an option of dit


def test_fill_writes_out_what_rows_take():
    def euler(x, *, eta: float = 0.5, ends: tuple[float, ...] = (0.0, 1.0)): ...

    run = read("digits", overrides=["sample.solver.eta=1"]).run
    filled = fill(run, {"sample.solver": {"euler": euler}})
    assert filled.sample.solver.options == {"eta": 1.0, "ends": [0.0, 1.0]}
    assert type(filled.sample.solver.options["eta"]) is float
    assert filled.backbone == run.backbone
