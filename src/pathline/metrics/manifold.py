"""How two sets of features relate, beyond mean and covariance; all in float64, in chunks of rows.

real, sampled: features of images by the same extractor, [n d] and [m d].
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

CELLS = 2**23  # entries of a distance or kernel matrix that are held at a time


class Kid(NamedTuple):
    mean: float  # about 0 for sets of one distribution, and then as often negative
    std: float  # over the subsets


class Score(NamedTuple):
    mean: float
    std: float  # over the splits


class PrecisionRecall(NamedTuple):
    precision: float  # share of sampled images near a real one
    recall: float  # share of real images near a sampled one


class DensityCoverage(NamedTuple):
    density: float  # real neighbourhoods a sampled image is in, about 1; may be above
    coverage: float  # share of real images with a sampled one in their neighbourhood


def kid(
    real: Float[Tensor, "n d"],
    sampled: Float[Tensor, "m d"],
    *,
    subsets: int = 100,
    size: int = 1000,
    rng: torch.Generator,
) -> Kid:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ (arXiv 1801.01401), mean over subsets.

    size: images of a subset, sampled without repeats; no more than the smaller set has.
    """
    real, sampled = _checked_pair(real, sampled, least=2)
    size = min(size, len(real), len(sampled))
    if subsets < 1 or size < 2:
        raise ValueError(
            f"KID needs 1 subset of 2 images or more; got {subsets} subsets of {size}."
        )
    if size == len(real) == len(sampled):
        subsets = 1  # all would be the same
    x, y = (_subsets(len(side), subsets, size, rng).to(side) for side in (real, sampled))
    # Without the kernel of an image with itself, which makes the estimate unbiased.
    within_real = (_sums(real, real, x, x) - x @ _cubes(real)) / (size * (size - 1))
    within_sampled = (_sums(sampled, sampled, y, y) - y @ _cubes(sampled)) / (size * (size - 1))
    values = within_real + within_sampled - 2 * _sums(real, sampled, x, y) / size**2
    return Kid(values.mean().item(), values.std(correction=0).item())


def cmmd(
    real: Float[Tensor, "n d"], sampled: Float[Tensor, "m d"], *, sigma: float = 10.0
) -> float:
    """1000 · the biased squared MMD of directions, Gaussian kernel (arXiv 2401.09603); 0 at itself.

    Meant for CLIP's features; sigma: of the kernel exp(−|x − y|²/2σ²).
    """
    real, sampled = (normalize(side) for side in _checked_pair(real, sampled, least=1))

    def mean(a: Tensor, b: Tensor) -> float:
        rows = (d.div(-2 * sigma**2).exp().sum().item() for d in _squares(a, b, _rows(b)))
        return sum(rows) / (len(a) * len(b))

    return 1000 * (mean(real, real) + mean(sampled, sampled) - 2 * mean(real, sampled))


def precision_recall(
    real: Float[Tensor, "n d"], sampled: Float[Tensor, "m d"], *, k: int = 3
) -> PrecisionRecall:
    """Shares inside the k-nearest-neighbour balls of the other set (arXiv 1904.06991); 0 … 1."""
    real, sampled = _centred(real, sampled, least=k + 1)
    precise, recalled = _cover(real, sampled, k), _cover(sampled, real, k)
    return PrecisionRecall(_share(precise.points), _share(recalled.points))


def density_coverage(
    real: Float[Tensor, "n d"], sampled: Float[Tensor, "m d"], *, k: int = 5
) -> DensityCoverage:
    """Like precision and recall, less moved by outliers (arXiv 2002.09797)."""
    real, sampled = _centred(real, sampled, least=k + 1)
    cover = _cover(real, sampled, k)
    return DensityCoverage(cover.pairs / (k * len(sampled)), _share(cover.centres))


def inception_score(
    logits: Float[Tensor, "n k"], *, splits: int = 10, rng: torch.Generator | None = None
) -> Score:
    """exp E KL(p(y|x) ‖ p(y)), 1 … classes (arXiv 1606.03498), over splits of equal size ± 1.

    rng: shuffles first, for images that come class by class.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} images can't be split into {splits} parts")
    order = torch.arange(len(logits)) if rng is None else _order(len(logits), rng)
    log_probs = logits.double()[order.to(logits.device)].log_softmax(1)
    scores = torch.stack([_score_of(part) for part in log_probs.tensor_split(splits)])
    return Score(scores.mean().item(), scores.std(correction=0).item())


def nearest_ratio(
    train: Float[Tensor, "n d"], held: Float[Tensor, "h d"], sampled: Float[Tensor, "m d"]
) -> float:
    """Median distance to the nearest training image, sampled over held-out images.

    About 1: as far from the training set as new images are; towards 0: copies of it.
    """
    _checked_pair(train, held, least=1)
    # Centred, since |a|² + |b|² − 2ab loses digits far from the origin.
    mean = train.double().mean(0)
    train, held, sampled = (s.double() - mean for s in _wide(train, held, sampled))
    usual = _nearest(held, train).median()
    if usual <= 0:
        raise ValueError(
            "half the held-out images or more are also training images; "
            "their distance to the training set is 0 and nothing can be compared with it"
        )
    return (_nearest(sampled, train).median() / usual).item()


def diversity(features: Float[Tensor, "n d"]) -> float:
    """Mean of 1 − cosine over all pairs of the images of one prompt; 0: identical."""
    if len(features) < 2:
        raise ValueError(f"diversity needs at least 2 images of a prompt; got {len(features)}")
    n, directions = len(features), normalize(features.double())
    return (
        1 - ((directions.sum(0).square().sum() - directions.square().sum()) / (n * (n - 1))).item()
    )


class Cover(NamedTuple):
    """Which points are in which balls; a centre's ball ends before its k-th neighbour."""

    centres: Bool[Tensor, " n"]  # balls with a point in them
    points: Bool[Tensor, " m"]  # points in a ball
    pairs: int


def _cover(centres: Tensor, points: Tensor, k: int) -> Cover:
    # both matrices are made in the same chunks of centres, so equal distances are equal to the bit
    hit = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    busy, pairs = [], 0
    rows = min(_rows(centres), _rows(points))
    to_centres, to_points = _squares(centres, centres, rows), _squares(centres, points, rows)
    for near, far in zip(to_centres, to_points, strict=True):
        # The distance to the k-th neighbour is the radius of a centre's ball.
        radius = near.topk(k + 1, dim=1, largest=False).values[:, -1:]  # itself is the first
        inside = far < radius
        hit |= inside.any(0)
        busy.append(inside.any(1))
        pairs += int(inside.sum())
    return Cover(torch.cat(busy), hit, pairs)


def _rows(b: Tensor) -> int:
    """Rows of a matrix as wide as b is long that may be held at a time."""
    return max(1, CELLS // len(b))


def _squares(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], rows: int
) -> Iterator[Float[Tensor, "c m"]]:
    """Squared distances of some rows of a at a time to all of b."""
    length = b.square().sum(1)
    # |a|² + |b|² − 2ab in one product; rounding can leave it below 0.
    for part in a.split(rows):
        square = part.square().sum(1, keepdim=True)
        yield torch.addmm(square + length, part, b.T, alpha=-2).clamp_(min=0)


def _nearest(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    return torch.cat([squares.amin(1) for squares in _squares(a, b, _rows(b))]).sqrt()


def _subsets(n: int, subsets: int, size: int, rng: torch.Generator) -> Float[Tensor, "s n"]:
    """Rows of 0 and 1 with `size` ones each."""
    chosen = torch.zeros(subsets, n)
    for row in chosen:
        row[_order(n, rng)[:size].cpu()] = 1
    return chosen


def _sums(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    x: Float[Tensor, "s n"],
    y: Float[Tensor, "s m"],
) -> Float[Tensor, " s"]:
    """KID's kernel summed over the rows of a and b that each subset holds."""
    total = torch.zeros_like(x[:, 0])
    rows = _rows(b)
    for part, chosen in zip(a.split(rows), x.split(rows, dim=1), strict=True):
        kernel = (part @ b.T / a.shape[1] + 1) ** 3  # once, for all subsets
        total += ((chosen @ kernel) * y).sum(1)
    return total


def _cubes(a: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """KID's kernel of each row with itself."""
    return (a.square().mean(1) + 1) ** 3


def _score_of(log_probs: Float[Tensor, "n k"]) -> Tensor:
    """The inception score of log-probabilities."""
    mean = log_probs.logsumexp(0) - torch.tensor(float(len(log_probs)), dtype=log_probs.dtype).log()
    return (log_probs.exp() * (log_probs - mean)).sum(1).mean().exp()


def _order(n: int, rng: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=rng, device=rng.device)


def _share(hits: Bool[Tensor, " n"]) -> float:
    return hits.double().mean().item()


def _wide(*sets: Tensor) -> tuple[Tensor, ...]:
    """The sets, if they are of one width and finite."""
    widths = sorted({s.shape[1] for s in sets})
    if len(widths) > 1:
        raise ValueError(
            f"features of width {widths[0]} against width {widths[1]}; "
            "both sets must come from the same extractor"
        )
    if not all(s.isfinite().all() for s in sets):
        raise ValueError("Features are not finite; look for broken images.")
    return sets


def _checked_pair(real: Tensor, sampled: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    real, sampled = _wide(real.double(), sampled.double())
    if min(len(real), len(sampled)) < least:
        raise ValueError(
            f"There are {len(real)} real and {len(sampled)} sampled images; "
            f"this score needs at least {least} of each."
        )
    return real, sampled


def _centred(real: Tensor, sampled: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Distances are taken from products, which round less near the origin."""
    real, sampled = _checked_pair(real, sampled, least=least)
    mean = real.mean(0)
    return real - mean, sampled - mean
