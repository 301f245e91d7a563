"""A kept reference comes back as it was, and only for the pictures and extractor it was made by."""

import pytest
import torch
from safetensors.torch import save_file

from pathline.metrics.reference import digest, load, reference, save

KEYS = ["a.png", "b.png"]


@pytest.fixture
def kept(tmp_path):
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    found = reference(features, feature="inception-clean299", digest=digest(KEYS))
    save(found, tmp_path / "cache" / "one.safetensors")
    return found, tmp_path / "cache" / "one.safetensors"


def test_it_comes_back(kept):
    found, file = kept
    back = load(file, feature="inception-clean299", digest=digest(KEYS))
    assert back[:2] == found[:2]
    assert torch.equal(back.features, found.features)
    assert back.statistics.n == 20
    assert torch.equal(back.statistics.mean, found.statistics.mean)
    assert torch.equal(back.statistics.cov, found.statistics.cov)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"feature": "inception-bilinear299"}, "by inception-clean299, but inception-bilinear299"),
        ({"feature": "dinov2-large-clean224"}, "dinov2-large-clean224 is asked for"),
        ({"digest": digest(["a.png", "c.png"])}, "another list of pictures"),
        ({"digest": digest(KEYS[::-1])}, "another list of pictures"),
    ],
)
def test_another_extractor_resize_or_list_is_refused(kept, given, words):
    with pytest.raises(ValueError, match=words):
        load(kept[1], **{"feature": "inception-clean299", "digest": digest(KEYS), **given})


def test_the_digest_knows_names_and_pixels():
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    found = {
        digest(KEYS),
        digest(["a.pngb", ".png"]),
        digest(KEYS, pixels),
        digest(KEYS, pixels + 1),
        digest(KEYS, pixels.view(2, 1, 2, 8)),
    }
    assert len(found) == 5
    assert digest(KEYS, pixels) == digest(list(KEYS), pixels.clone())


def test_other_files_are_refused(tmp_path):
    given = {"feature": "pca-64", "digest": digest(KEYS)}
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load(tmp_path / "none.safetensors", **given)
    (tmp_path / "torn").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "torn", **given)
    save_file({"mean": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="no file of reference statistics"):
        load(tmp_path / "weights", **given)
