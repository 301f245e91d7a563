"""Settings that are right alone and wrong together."""

from dataclasses import replace

import pytest

from pathline.config.pick import Pick, pick
from pathline.config.run import Data, Run, Sample, Train, problems


def test_defaults_are_sound():
    assert problems(Run()) == []


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"train": Train(batch=10, accumulate=4)}, "train.batch", "Nearest: 8 or 12"),
        ({"train": Train(batch=2, accumulate=4)}, "train.batch", "Nearest: 4 or 8"),
        ({"train": Train(ema=())}, "train.ema", "samples use its first decay"),
        ({"train": Train(ema=(0.9, 0.9))}, "train.ema", "twice"),
        ({"data": Data(source=Pick("auto"))}, "data.source", "set data.source.path=FOLDER"),
        ({"text": pick("auto", length=3)}, "text.length", "name a row first, text="),
        ({"sample": Sample(ema=0.5)}, "sample.ema", r"train.ema is \[0.999\]"),
        (
            {"terms": {"mse": {"weight": "x"}}},
            "terms.mse.weight",
            "=x is wrong because it must be a",
        ),
        ({"terms": {"mse": 0.0}}, "terms", "at least one"),
        ({"name": "../x"}, "name", "cannot be '../x'"),
    ],
)
def test_refused(changes, key, said):
    found = problems(replace(Run(), **changes))
    assert [problem.key for problem in found] == [key]
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found[0].message)
