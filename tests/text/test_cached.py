"""Encoders that are looked for late."""

import pytest
import torch

from pathline.text.cached import LazyText, cached_text
from pathline.types import CacheInfo, Cond

NULL = Cond(tokens=torch.ones(1, 8, 16), mask=torch.ones(1, 8, dtype=torch.bool))
ABOUT = CacheInfo("codec", 4, 8, (0.0,) * 4, (1.0,) * 4, "another", 16, 16)


def test_a_given_null_is_kept(text):
    made = text("t5")._replace(null=NULL)
    assert made.null is NULL
    assert text("t5").null is not NULL
    assert isinstance(made, LazyText)


def test_a_cached_encoder_is_looked_for_at_the_first_new_word(text):
    real, made = text("clip"), []

    def make():
        made.append(1)
        return real

    kept = cached_text(make, ABOUT._replace(text=real.id))
    assert (kept.width, kept.pooled_width, kept.id) == (16, 16, real.id)
    kept.to(torch.device("cpu"))
    kept = kept._replace(null=NULL)
    assert kept.null is NULL
    assert made == []
    for _ in range(2):
        assert torch.equal(kept.encode(["a star"]).tokens, real.encode(["a star"]).tokens)
    assert made == [1]


def test_another_encoder_than_the_caches_is_refused(text):
    with pytest.raises(ValueError, match=r"states of the text encoder 'another'.*preprocess again"):
        cached_text(lambda: text("clip"), ABOUT).encode(["star"])
