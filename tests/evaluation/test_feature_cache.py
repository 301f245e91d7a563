"""Reference features are computed once, and never taken for another extractor's."""

import pytest
import torch

from pathline.evaluation.feature_cache import embed_cached
from pathline.metrics.features import Feature


def extractor(name="net-clean16", scale=1.0):
    asked = []

    def embed(pixels):
        asked.append(len(pixels))
        return pixels.flatten(1).float() * scale

    return Feature(name, 48, embed), asked


@pytest.fixture
def pixels():
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (9, 3, 4, 4), dtype=torch.uint8, generator=rng)


def test_the_second_time_nothing_is_embedded_but_what_marks_the_weights(pixels, tmp_path):
    feature, asked = extractor()
    once, again = (embed_cached(feature, pixels, tmp_path) for _ in range(2))
    assert torch.equal(once, feature.embed(pixels))
    assert torch.equal(once, again)
    assert asked[:3] == [2, 9, 2]


@pytest.mark.parametrize("change", [{"name": "net-bilinear16"}, {"scale": 1.001}])
def test_another_resize_or_other_weights_are_made_anew(change, pixels, tmp_path):
    embed_cached(extractor()[0], pixels, tmp_path)
    other, asked = extractor(**change)
    assert torch.equal(embed_cached(other, pixels, tmp_path), other.embed(pixels))
    assert 9 in asked


def test_other_pictures_are_made_anew(pixels, tmp_path):
    feature, _ = extractor()
    embed_cached(feature, pixels, tmp_path)
    changed = pixels.clone()
    changed[8, 0, 0, 0] ^= 1
    assert torch.equal(embed_cached(feature, changed, tmp_path), feature.embed(changed))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cut_file_is_named(pixels, tmp_path):
    feature, _ = extractor()
    embed_cached(feature, pixels, tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="Delete it to compute it again"):
        embed_cached(feature, pixels, tmp_path)
