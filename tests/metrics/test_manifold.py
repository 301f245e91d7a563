"""Agreement with scikit-learn's kernels and distances; identities; checks that can fail."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from pathline.metrics import manifold
from pathline.metrics.manifold import (
    cmmd,
    density_coverage,
    diversity,
    inception_score,
    kid,
    nearest_ratio,
    precision_recall,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed, scale=1.0):
    return scale * torch.randn(n, d, generator=rng(seed))


@pytest.fixture
def features():
    """Two overlapping sets, of unequal size and spread, far from the origin."""
    return 3 + normal(150, 6, 1), 3.4 + normal(110, 6, 2, 1.3)


def mmd2(x, y):
    """Unbiased squared MMD, by scikit-learn's kernel and two loops' worth of sums."""
    x, y = x.double().numpy(), y.double().numpy()
    m = len(x)
    xx, yy, xy = (polynomial_kernel(a, b, degree=3) for a, b in ((x, x), (y, y), (x, y)))
    own = [(k.sum() - np.trace(k)) / (m * (m - 1)) for k in (xx, yy)]
    return sum(own) - 2 * xy.mean()


def test_kid_is_scikit_learns(features):
    real, drawn = features[0][:110], features[1]
    assert kid(real, drawn, rng=rng()).mean == pytest.approx(mmd2(real, drawn), rel=1e-6)


def test_a_subset_is_a_subset(features, monkeypatch):
    monkeypatch.setattr(manifold, "CELLS", 1000)
    real, drawn = features
    found = kid(real, drawn, subsets=3, size=30, rng=rng(5))
    judge = rng(5)
    picks = [[torch.randperm(len(s), generator=judge)[:30] for _ in range(3)] for s in features]
    wanted = [mmd2(real[i], drawn[j]) for i, j in zip(*picks, strict=True)]
    assert found == pytest.approx((np.mean(wanted), np.std(wanted)), rel=1e-6)


def test_kid_over_subsets_is_about_kid_of_all(features):
    real, drawn = features[0][:110], features[1]
    found = kid(real, drawn, subsets=400, size=40, rng=rng())
    assert found.mean == pytest.approx(mmd2(real, drawn), abs=5 * found.std / math.sqrt(400))
    assert found.std > 0
    assert found == kid(real, drawn, subsets=400, size=40, rng=rng())
    assert found != kid(real, drawn, subsets=400, size=40, rng=rng(1))


def test_kid_of_one_distribution_is_as_often_negative():
    means = [kid(normal(60, 4, 2 * i), normal(60, 4, 2 * i + 1), rng=rng()).mean for i in range(60)]
    assert 15 <= sum(mean < 0 for mean in means) <= 45
    assert abs(np.mean(means)) < 3 * np.std(means) / math.sqrt(60)
    other = kid(normal(60, 4, 0), normal(60, 4, 1, 2.0), rng=rng()).mean
    assert other > 5 * np.std(means)


def judged(real, drawn, k):
    """Precision, recall, density, coverage by whole distance matrices (PRDC's definitions)."""
    real, drawn = real.double().numpy(), drawn.double().numpy()
    radius = {}
    for name, side in (("real", real), ("drawn", drawn)):
        radius[name] = np.sort(pairwise_distances(side), axis=1)[:, k]
    apart = pairwise_distances(real, drawn)
    inside = apart < radius["real"][:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (apart < radius["drawn"][None]).any(1).mean(),
        "density": inside.sum(0).mean() / k,
        "coverage": (apart.min(1) < radius["real"]).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("cells", [manifold.CELLS, 1000])
def test_neighbours_are_scikit_learns(features, k, cells, monkeypatch):
    monkeypatch.setattr(manifold, "CELLS", cells)
    found = {
        **precision_recall(*features, k=k)._asdict(),
        **density_coverage(*features, k=k)._asdict(),
    }
    assert found == pytest.approx(judged(*features, k), abs=1e-6)


def test_a_set_covers_itself(features):
    assert precision_recall(features[0], features[0].clone()) == (1, 1)
    density, coverage = density_coverage(features[0], features[0].clone())
    assert density == pytest.approx(1, abs=0.01)
    assert coverage == 1


def test_far_apart_nothing_is_shared(features):
    away = features[1] + 100
    assert precision_recall(features[0], away) == (0, 0)
    assert density_coverage(features[0], away) == (0, 0)


def test_a_narrow_generator_is_precise_and_forgets():
    real, narrow = normal(400, 8, 1), normal(400, 8, 2, 0.05)
    precision, recall = precision_recall(real, narrow)
    assert precision > 0.99
    assert recall < 0.02
    turned = precision_recall(narrow, real)  # and the other way about, if they were exchanged
    assert turned == (recall, precision)


def test_an_outlier_in_the_real_set_spoils_precision_and_not_density():
    real, drawn = normal(300, 3, 1), 6 + normal(300, 3, 2)
    real[0] = 12.0  # its ball reaches over the drawn ones
    assert precision_recall(real, drawn).precision > 0.9
    assert density_coverage(real, drawn).density < 0.3


def test_cmmd_is_scikit_learns(features, monkeypatch):
    monkeypatch.setattr(manifold, "CELLS", 1000)
    x, y = (s.double().numpy() for s in features)
    x, y = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (x, y))
    gamma = 1 / (2 * 10**2)
    means = [rbf_kernel(a, b, gamma=gamma).mean() for a, b in ((x, x), (y, y), (x, y))]
    wanted = 1000 * (means[0] + means[1] - 2 * means[2])
    assert cmmd(*features) == pytest.approx(wanted, rel=1e-6, abs=1e-10)
    assert wanted > 0.01


def test_cmmd_of_a_set_with_itself_is_nothing(features):
    assert cmmd(features[0], features[0]) == 0
    assert cmmd(features[0], 5 * features[0]) == pytest.approx(0, abs=1e-9)  # directions alone


@pytest.mark.parametrize("splits", [1, 4])
def test_inception_score_at_its_ends(splits):
    assert inception_score(torch.ones(40, 10), splits=splits) == (pytest.approx(1), 0)
    sure = 1e4 * torch.eye(10).repeat(8, 1)
    assert inception_score(sure, splits=splits).mean == pytest.approx(10)
    alike = 1e4 * torch.eye(10)[:1].repeat(80, 1)
    assert inception_score(alike, splits=splits).mean == pytest.approx(1)


def test_inception_score_is_numpys():
    logits = normal(50, 7, 3, 2.0)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    scores = [
        np.exp(np.mean(np.sum(part * (np.log(part) - np.log(part.mean(0))), 1)))
        for part in np.split(p, 5)
    ]
    found = inception_score(logits, splits=5)
    assert found == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_pictures_in_order_of_class_need_a_shuffle():
    ordered = 1e4 * torch.eye(10).repeat_interleave(50, 0)
    assert inception_score(ordered).mean == pytest.approx(1)
    assert inception_score(ordered, rng=rng()).mean > 9


def test_copies_are_told_from_new_pictures():
    train, held, new = normal(500, 5, 1), normal(200, 5, 2), normal(200, 5, 3)
    assert nearest_ratio(train, held, new) == pytest.approx(1, abs=0.15)
    assert nearest_ratio(train, held, train[:200] + normal(200, 5, 4, 0.01)) < 0.1
    assert nearest_ratio(train, held, new + 20) > 5


def test_nearest_is_the_nearest():
    train, held, drawn = torch.tensor([[0.0], [10]]), torch.tensor([[2.0]]), torch.tensor([[7.0]])
    assert nearest_ratio(train, held, drawn) == pytest.approx(3 / 2)


def test_diversity():
    assert diversity(torch.ones(5, 3)) == pytest.approx(0)
    assert diversity(torch.eye(4)) == pytest.approx(1)
    assert diversity(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(2)
    some = normal(9, 4, 1).numpy()
    pairs = pairwise_distances(some, metric="cosine")[np.triu_indices(9, 1)]
    assert diversity(torch.from_numpy(some)) == pytest.approx(pairs.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kid(torch.ones(1, 3), torch.ones(5, 3), rng=rng()), "1 real and 5 sampled"),
        (lambda: kid(torch.ones(5, 3), torch.ones(5, 3), subsets=0, rng=rng()), "0 subsets"),
        (lambda: precision_recall(torch.ones(3, 2), torch.ones(9, 2)), "at least 4"),
        (lambda: cmmd(torch.ones(2, 2), torch.full((2, 2), math.nan)), "not finite"),
        (lambda: inception_score(torch.ones(3, 2)), "3 images can't be split into 10"),
        (lambda: diversity(torch.ones(1, 2)), "at least 2"),
        (lambda: nearest_ratio(torch.eye(2), torch.eye(2), torch.ones(1, 2)), "also training"),
    ],
)
def test_what_cannot_be_measured_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
