"""The pixel codec and the one normalisation."""

import pytest
import torch

from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.table import CODECS
from pathline.types import Facts

FACTS = Facts(3, 4, 4)


def test_every_byte_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    codec = CODECS["pixel"](FACTS, mean=0.3, std=0.7)
    x1 = normalise(codec, codec.encode(pixels))
    assert torch.equal(codec.decode(denormalise(codec, x1)), pixels)


def test_ends_of_the_range():
    codec = CODECS["pixel"](FACTS)
    raw = codec.encode(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    assert raw.flatten().tolist() == [-1, 1]
    assert codec.decode(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_normalising_is_per_channel():
    codec = CODECS["pixel"](FACTS)._replace(
        mean=torch.tensor([1.0, 2.0, 3.0]), std=torch.tensor([1.0, 2.0, 4.0])
    )
    raw = torch.ones(1, 3, 1, 1) * torch.tensor([2.0, 4.0, 7.0]).view(3, 1, 1)
    assert normalise(codec, raw).flatten().tolist() == [1, 1, 1]


def test_a_std_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        CODECS["pixel"](FACTS, std=0.0)
