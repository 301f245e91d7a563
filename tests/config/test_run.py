"""Numbers that cannot be."""

from dataclasses import replace

import pytest

from pathline.config.pick import Pick, pick
from pathline.config.run import Data, Run, Sample, Train, problems


def test_defaults_are_sound():
    assert problems(Run()) == []


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"train": Train(batch=-1)}, "train.batch", "above 0, got -1"),
        ({"train": Train(batch=10, accumulate=4)}, "train.batch", "Nearest: 8 or 12"),
        ({"train": Train(batch=2, accumulate=4)}, "train.batch", "Nearest: 4 or 8"),
        ({"train": Train(clip=-1.0)}, "train.clip", "must be 0 or more"),
        ({"train": Train(ema=(1.0,))}, "train.ema", r"in \[0, 1\), got \[1.0\]"),
        ({"train": Train(ema=())}, "train.ema", "one or more"),
        ({"train": Train(ema=(0.9, 0.9))}, "train.ema", "twice"),
        ({"data": Data(holdout=1.0)}, "data.holdout", r"\[0, 1\), got 1.0"),
        ({"data": Data(max_bad=2.0)}, "data.max_bad", "got 2.0"),
        ({"data": Data(channels=4)}, "data.channels", "must be 1 .grey. or 3 .colour., got 4"),
        ({"data": Data(source=Pick("auto"))}, "data.source", "set data.source.path=FOLDER"),
        ({"text": pick("auto", length=3)}, "text.length", "name a row first, text="),
        ({"sample": Sample(ema=0.5)}, "sample.ema", r"train.ema is \[0.999\]"),
        ({"sample": Sample(steps=0)}, "sample.steps", "above 0"),
        ({"terms": {"mse": {"weight": "x"}}}, "terms.mse.weight", "wants a number"),
        ({"terms": {"mse": 0.0}}, "terms", "at least one"),
        ({"name": "../x"}, "name", "cannot be '../x'"),
        ({"seed": -1}, "seed", "got -1"),
    ],
)
def test_refused(changes, key, said):
    found = problems(replace(Run(), **changes))
    assert [problem.key for problem in found] == [key]
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found[0].message)
