"""Sampling settings: which words of a line are settings, and what they are resolved to."""

import pytest

from pathline.config.run import Run
from pathline.runs.sampling import full_keys, sampling_settings, split_words


def test_words_are_settings_by_their_beginning_and_prompts_otherwise():
    words = ["a red circle", "steps=20", "a sign that reads x=3", " E=mc2", "1+1=2", "=", "a b=c"]
    settings, prompts = split_words([*words, "sample.guidance.low=0.2"])
    assert settings == ["steps=20", "sample.guidance.low=0.2"]
    assert prompts == ["a red circle", "a sign that reads x=3", "E=mc2", "1+1=2", "=", "a b=c"]


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("steps=20", "sample.steps=20"),
        ("sample.steps=20", "sample.steps=20"),
        ("guidance=3", "sample.guidance.scale=3"),
        ("sample.guidance=1.5", "sample.guidance.scale=1.5"),
        ("guidance=interval", "sample.guidance=interval"),
        ("guidance.scale=3", "sample.guidance.scale=3"),
        ("solver.eta=0.5", "sample.solver.eta=0.5"),
    ],
)
def test_sample_may_be_left_out_and_a_number_is_the_guidance_scale(typed, full):
    assert full_keys([typed]) == [full]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("stepps=20", r"stepps is no sampling setting. Did you mean 'steps'.*space before it"),
        ("sample.stepps=20", "Did you mean 'steps'"),
        ("train.updates=5", "can't be changed after training"),
        ("seed=3", "Write --seed 3"),
        ("zebra=3", "There are: solver, grid, guidance, sharing, steps, ema, batch, count"),
    ],
)
def test_a_key_that_is_none_is_an_error_with_the_nearest(typed, message):
    with pytest.raises(ValueError, match=message):
        full_keys([typed], options=("seed",))


def test_flags_win_over_settings_and_settings_over_the_run(tmp_path):
    from pathline.runs import folder
    from pathline.types import Facts

    run = tmp_path / "run"
    run.mkdir()
    folder.write(run, Run(), Facts(1, 8, 8))
    opened = folder.reopen(run, print, folder.FLOW)
    assert sampling_settings(opened) == Run().sample
    sample = sampling_settings(opened, ["steps=7", "guidance=2"], {"steps": 9, "solver": None})
    assert (sample.steps, sample.guidance.options["scale"]) == (9, 2)
    assert sample.solver == Run().sample.solver
