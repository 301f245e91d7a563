"""What can't go together is refused from its settings, with no data read and no image sampled."""

import re
from pathlib import Path

import pytest

from pathline.assemble import assemble, check_settings, sampler
from pathline.cli import main
from pathline.compatibility import NEEDS, Need, undecided
from pathline.config.pick import pick
from pathline.config.resolve import read
from pathline.config.run import Run, Sample
from pathline.flow.paths import STRAIGHT
from pathline.generate import _subject, check_sampler
from pathline.tables import TABLES
from pathline.types import Facts

DTM = ["objective=transition"]
MEAN = ["objective=mean_flow", "backbone.takes_r=true", "sample.solver=jump"]
ALPHA = ["objective=alpha_flow", *MEAN[1:]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["objective=mean_flow", "backbone.takes_r=false"],
            "backbone.takes_r=true. Backbones that have it: cross_dit, ddt, dit",
        ),
        ([*DTM, "sample.solver=euler"], "Set sample.solver=transition"),
        ([*DTM, "sample.solver=dopri5"], "Set sample.solver=transition"),
        ([*DTM, "sample.solver=transition", "path=trig"], "path=straight"),
        (
            ["sample.solver=transition"],
            "Train with objective=transition, or set sample.solver=euler",
        ),
        (["sample.solver=jump"], "average velocities"),
        (["sample.sharing=every"], "only backbone=ddt has an encoder"),
        (
            ["backbone=ddt", "sample.sharing=every", "sample.solver=dopri5"],
            "solver chooses its steps",
        ),
        (["sample.guidance=contrastive"], "terms.contrastive=0.05"),
        (
            ["sample.guidance=contrastive", "terms.contrastive={weight: 0.1, apart: true}"],
            "(apart=false)",
        ),
        (["backbone=ddt", "sample.sharing=program", "sample.sharing.calls=99"], "calls=99"),
        (
            ["backbone=ddt", "sample.sharing=program", "sample.solver=heun"],
            "sample.sharing=program: There are 25 steps but 50 evaluations",
        ),
        (
            ["sample.guidance=interval", "sample.guidance.low=0.5", "sample.guidance.high=0.4"],
            "sample.guidance=interval: low=0.5 high=0.4 is wrong",
        ),
        (
            [*MEAN, "objective.derivative=difference", "train.strategy=fsdp2"],
            "needs float32 weights",
        ),
        (["sample.guidance=path_drop"], "Train with backbone.route=sprint"),
        (["sample.guidance=path_drop", "backbone.route=tread"], "Train with backbone.route=sprint"),
        (["terms.alignment=0.5"], "terms.alignment is wrong because it needs features"),
        (["vision=encoder", "vision.path=x"], "vision=encoder has no effect because"),
        (["terms.contrastive=1"], "the loss is unbounded below"),
        (["terms.contrastive={weight: 1.5}"], "the loss is unbounded below"),
        (["terms.contrastive.weight=1"], "the loss is unbounded below"),
        (
            ["terms.mse=0", "terms.l1=1", "terms.contrastive={weight: 0.1}"],
            "the loss is unbounded below",
        ),
    ],
)
def test_misfits_are_refused(settings, says):
    run = read("digits", (), settings, tables=TABLES).run
    with pytest.raises(ValueError, match=re.escape(says)):
        check_settings(run)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["objective=mean_flow"],
        MEAN,
        [*ALPHA, "terms.mse=1", "terms.contrastive=0.01"],
        [*MEAN, "objective.derivative=difference", "train.strategy=fsdp2", "train.precision=fp32"],
        [
            *("backbone=ddt", "sample.sharing=program", "sample.sharing.calls=2"),
            *("sample.grid=explicit", "sample.grid.times=[0,0.3,0.7,1]"),
        ],
        ["objective=mean_flow", "backbone.takes_r=true", "sample.solver=dopri5"],
        ["objective=mean_flow", "backbone.takes_r=yes", "sample.solver=jump"],
        [*DTM, "sample.solver=transition"],
        ["backbone=ddt", "sample.sharing=every"],
        ["sample.guidance=contrastive", "terms.contrastive={weight: 0.05}"],
        ["sample.guidance=contrastive", "terms.contrastive={weight: 0.05, apart: no}"],
        ["sample.guidance=autoguidance"],
        ["sample.guidance=path_drop", "backbone.route=sprint"],
        ["terms.alignment=0.5", "vision=encoder", "vision.path=x"],
    ],
)
def test_what_fits_is_not(settings):
    check_settings(read("digits", (), settings, tables=TABLES).run)


PARTS = Run(text=pick("none"), backbone=pick("dit", width=16, depth=1, heads=2, patch=2))
SAMPLING = [(t, row) for t in ("solver", "guidance", "sharing") for row in TABLES[f"sample.{t}"]]


@pytest.mark.parametrize(("setting", "row"), SAMPLING)
def test_every_need_of_sampling_is_decided_by_the_parts(setting, row):
    """A need that nothing decides would be accepted in silence: generation has no other check."""
    options = {"calls": 1} if row == "program" else {}
    built = sampler(Sample(steps=4, **{setting: pick(row, **options)}), STRAIGHT)
    parts = assemble(PARTS, Facts(1, 4, 4))
    assert undecided(built.needs, _subject(parts)) == []


def test_a_need_that_is_undecided_before_sampling_is_an_error(monkeypatch):
    monkeypatch.setitem(NEEDS, "weak_network", Need(lambda _: None, "{row} is wrong."))
    built = sampler(Sample(guidance=pick("autoguidance")), STRAIGHT)
    with pytest.raises(LookupError, match="autoguidance needs 'weak_network', which is undecided"):
        check_sampler(assemble(PARTS, Facts(1, 4, 4)), built)


def test_train_refuses_before_a_folder_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            ["train", "digits", *DTM, "sample.solver=euler", "train.sample_every=0", "--out", "run"]
        )
        == 2
    )
    assert "Set sample.solver=transition" in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()
