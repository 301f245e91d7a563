"""The extractors that need no download: main axes of pixels, and a small classifier."""

import inspect

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from pathline.metrics.clip_score import conditional_accuracy
from pathline.metrics.features import FEATURES, classifier, pca
from pathline.metrics.scores import measure

CPU = torch.device("cpu")


def noise(n=40, c=3, h=6, w=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=rng)


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    pixels = torch.from_numpy(found.images * 15.9).to(torch.uint8)[:, None]
    return pixels, torch.from_numpy(found.target)


@pytest.fixture(scope="module")
def feature(digits):
    return classifier(*digits, CPU, updates=150)


@pytest.mark.parametrize("n", [40, 200])  # fewer and more pictures than pixels
def test_pca_is_scikit_learns(n):
    pixels, other = noise(n), noise(9, seed=1)
    found = pca(pixels, None, CPU, width=7)
    flat = [(p.flatten(1).double() / 127.5 - 1).numpy() for p in (pixels, other)]
    judge = PCA(7, svd_solver="full").fit(flat[0])
    wanted = torch.from_numpy(judge.transform(flat[1])).float()
    got = found.embed(other)
    assert torch.allclose(got.abs(), wanted.abs(), atol=1e-4)  # an axis has no sign of its own
    assert (found.name, found.width, found.logits) == ("pca-7", 7, None)


def test_pca_of_few_or_large_pictures():
    assert pca(noise(5), None, CPU).width == 5
    large = noise(50, 3, 20, 40)
    found = pca(large, None, CPU, width=4, side=10)
    assert found.name == "pca-4-area10x10"
    assert found.embed(large).shape == (50, 4)
    with pytest.raises(ValueError, match="at least 2"):
        pca(large[:1], None, CPU)


def test_pca_of_many_pictures_takes_some(monkeypatch):
    monkeypatch.setattr("pathline.metrics.features.MOST", 30)
    pixels = noise(100)
    assert torch.equal(
        pca(pixels, None, CPU).embed(pixels), pca(pixels[::4], None, CPU).embed(pixels)
    )


def test_the_classifier_knows_digits(digits, feature):
    share = float(feature.note.split("accuracy ")[1].split("%")[0])
    assert share > 93
    assert "of 179 images" in feature.note
    assert feature.name == "classifier-128"
    assert feature.embed(digits[0][:5]).shape == (5, 128)
    assert conditional_accuracy(feature.logits(digits[0]), digits[1]) > 0.95
    assert conditional_accuracy(feature.logits(digits[0]), digits[1].roll(1)) < 0.2


def test_the_classifier_is_a_function_of_its_seed(digits):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    some = [digits[0][:200], digits[1][:200]]
    first, again = (classifier(*some, CPU, updates=5).embed(some[0]) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, classifier(*some, CPU, updates=5, seed=1).embed(some[0]))


def test_a_vector_does_not_depend_on_its_neighbours(digits, feature):
    assert torch.allclose(
        feature.embed(digits[0][:9])[3:4], feature.embed(digits[0][3:4]), atol=1e-5
    )


def test_the_classifier_sees_what_is_missing(digits, feature):
    vectors = feature.embed(digits[0])
    real, drawn, known = vectors[::3], vectors[1::3], digits[1][1::3]
    whole, low = measure(real, drawn), measure(real, drawn[known < 5])
    assert low["recall"] < 0.75 * whole["recall"]
    assert low["frechet"] > 10 * whole["frechet"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "have no labels. Set feature=pca"),
        (torch.zeros(40, dtype=torch.long), "two classes"),
        (torch.arange(40) - 1, "from -1 to 38"),
        (torch.arange(39), "40 images and 39 labels"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        classifier(noise(40), labels, CPU)


def test_every_row_takes_the_same_three():
    for row in FEATURES.values():
        names = [p.name for p in inspect.signature(row.build).parameters.values() if p.kind != 3]
        assert names == ["real", "labels", "device"]


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.eye(3)[:0], torch.arange(0), "0 labels for 0 images"),
        (torch.eye(3), torch.arange(1, 4), "from 1 to 3"),
    ],
)
def test_labels_a_classifier_does_not_know(logits, labels, words):
    with pytest.raises(ValueError, match=words):
        conditional_accuracy(logits, labels)
