"""A training too short for its own settings is named before it begins."""

from math import prod

import pytest

from pathline.assemble import warnings_of
from pathline.config.codec_run import CodecRun, Critic
from pathline.config.codec_run import warnings_of as codec_warnings
from pathline.config.resolve import PRESETS, read
from pathline.tables import TABLES


def test_a_warm_up_that_does_not_end_is_named():
    run = read("digits", (), ["train.updates=50"], tables=TABLES).run
    assert warnings_of(run) == [
        "schedule.warmup=50 is wrong for train.updates=50 because the learning rate is still "
        "rising at the last update. Set schedule.warmup=2, or more updates."
    ]
    assert warnings_of(read("digits", (), ["train.updates=51"], tables=TABLES).run) == []


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_too_short_for_itself(name):
    assert [text for text in warnings_of(PRESETS[name]) if "train.updates" in text] == []


def test_a_discriminator_that_is_never_used_is_named():
    run = CodecRun(critic=Critic(weight=0.1, begin=9000))
    assert [text.partition(" is ")[0] for text in codec_warnings(run)] == ["critic.begin=9000"]
    assert codec_warnings(CodecRun()) == []


def test_an_average_is_no_longer_than_its_training():
    """The decay's ramp leaves a thousandth of the initial weights after six updates."""
    assert prod(min(0.999, (1 + n) / (10 + n)) for n in range(1, 7)) < 1e-3
