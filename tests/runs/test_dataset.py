"""The examples of a run, whatever its source."""

import io

import pytest
import torch

from pathline.console import open_console
from pathline.runs.dataset import AT_ONCE, encode_captions
from pathline.text.learned import vocabulary, words
from pathline.types import Cond, Facts, Text


def frozen(captions):
    """States as a frozen encoder gives them: as many as the longest caption has letters."""
    longest = max(map(len, captions))
    mask = torch.tensor([[place < len(text) for place in range(longest)] for text in captions])
    tokens = mask[..., None] * torch.tensor([[[float(len(text))]] for text in captions])
    pooled = torch.tensor([[float(len(text))] for text in captions])
    return Cond(tokens, mask, pooled)


CAPTIONS = ["cat " * (1 + number % 7) for number in range(2 * AT_ONCE + 3)]
TABLE = words(Facts(3, 8, 8, (), vocabulary(CAPTIONS)))


@pytest.mark.parametrize("text", [Text(frozen, Cond(), 1), TABLE], ids=["frozen", "words"])
def test_captions_encoded_in_parts_are_those_encoded_at_once(text):
    captions = [*CAPTIONS, "cat " * 9]
    whole = text.encode(captions)
    parts = encode_captions(text, captions, open_console(file=io.StringIO()))
    for one, two in zip(whole, parts, strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)
