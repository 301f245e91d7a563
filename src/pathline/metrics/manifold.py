"""How two sets of features relate, beyond mean and covariance; all in float64, in chunks of rows.

real, drawn: features of pictures by the same extractor, [n d] and [m d].
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
    precision: float  # share of drawn pictures near a real one
    recall: float  # share of real pictures near a drawn one


class DensityCoverage(NamedTuple):
    density: float  # real neighbourhoods a drawn picture lies in, about 1; may be above
    coverage: float  # share of real pictures with a drawn one in their neighbourhood


def kid(
    real: Float[Tensor, "n d"],
    drawn: Float[Tensor, "m d"],
    *,
    subsets: int = 100,
    size: int = 1000,
    rng: torch.Generator,
) -> Kid:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ (arXiv 1801.01401), mean over subsets.

    size: pictures of a subset, drawn without repeats; no more than the smaller set has.
    """
    real, drawn = _both(real, drawn, least=2)
    size = min(size, len(real), len(drawn))
    if subsets < 1 or size < 2:
        raise ValueError(f"KID over {subsets} subsets of {size} pictures; give more than that")
    if size == len(real) == len(drawn):
        subsets = 1  # all would be the same
    x, y = (_subsets(len(side), subsets, size, rng).to(side) for side in (real, drawn))
    own = (_sums(real, real, x, x) - x @ _cubes(real)) / (size * (size - 1))
    other = (_sums(drawn, drawn, y, y) - y @ _cubes(drawn)) / (size * (size - 1))
    found = own + other - 2 * _sums(real, drawn, x, y) / size**2
    return Kid(found.mean().item(), found.std(correction=0).item())


def cmmd(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, sigma: float = 10.0) -> float:
    """1000 · the biased squared MMD of directions, Gaussian kernel (arXiv 2401.09603); 0 at itself.

    Meant for CLIP's features; sigma: of the kernel exp(−|x − y|²/2σ²).
    """
    real, drawn = (normalize(side) for side in _both(real, drawn, least=1))

    def mean(a: Tensor, b: Tensor) -> float:
        rows = (d.div(-2 * sigma**2).exp().sum().item() for d in _squares(a, b, _rows(b)))
        return sum(rows) / (len(a) * len(b))

    return 1000 * (mean(real, real) + mean(drawn, drawn) - 2 * mean(real, drawn))


def precision_recall(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, k: int = 3
) -> PrecisionRecall:
    """Shares inside the k-nearest-neighbour balls of the other set (arXiv 1904.06991); 0 … 1."""
    real, drawn = _centred(real, drawn, least=k + 1)
    precise, recalled = _cover(real, drawn, k), _cover(drawn, real, k)
    return PrecisionRecall(_share(precise.points), _share(recalled.points))


def density_coverage(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, k: int = 5
) -> DensityCoverage:
    """Like precision and recall, less moved by outliers (arXiv 2002.09797)."""
    real, drawn = _centred(real, drawn, least=k + 1)
    found = _cover(real, drawn, k)
    return DensityCoverage(found.pairs / (k * len(drawn)), _share(found.centres))


def inception_score(
    logits: Float[Tensor, "n k"], *, splits: int = 10, rng: torch.Generator | None = None
) -> Score:
    """exp E KL(p(y|x) ‖ p(y)), 1 … classes (arXiv 1606.03498), over splits of equal size ± 1.

    rng: shuffles first, for pictures that come class by class.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} pictures can't be split into {splits} parts")
    order = torch.arange(len(logits)) if rng is None else _order(len(logits), rng)
    said = logits.double()[order.to(logits.device)].log_softmax(1)
    found = torch.stack([_told(part) for part in said.tensor_split(splits)])
    return Score(found.mean().item(), found.std(correction=0).item())


def nearest_ratio(
    train: Float[Tensor, "n d"], held: Float[Tensor, "h d"], drawn: Float[Tensor, "m d"]
) -> float:
    """Median distance to the nearest training picture, drawn over held-out pictures.

    About 1: as far from the training set as new pictures are; towards 0: copies of it.
    """
    _both(train, held, least=1)
    mean = train.double().mean(0)
    train, held, drawn = (s.double() - mean for s in _wide(train, held, drawn))
    own = _nearest(held, train).median()
    if own <= 0:
        raise ValueError(
            "half the held-out pictures or more are also training pictures; "
            "their distance to the training set is 0 and nothing can be compared with it"
        )
    return (_nearest(drawn, train).median() / own).item()


def diversity(features: Float[Tensor, "n d"]) -> float:
    """Mean of 1 − cosine over all pairs of the pictures of one prompt; 0: all alike, 1: unlike."""
    if len(features) < 2:
        raise ValueError(f"diversity needs at least 2 pictures of a prompt; got {len(features)}")
    n, ways = len(features), normalize(features.double())
    return 1 - ((ways.sum(0).square().sum() - ways.square().sum()) / (n * (n - 1))).item()


class Cover(NamedTuple):
    """Who lies in whose ball. A centre's ball reaches to its k-th neighbour, rim not included."""

    centres: Bool[Tensor, " n"]  # balls with a point in them
    points: Bool[Tensor, " m"]  # points in a ball
    pairs: int


def _cover(centres: Tensor, points: Tensor, k: int) -> Cover:
    # both matrices are made in the same chunks of centres, so equal distances are equal to the bit
    hit = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    busy, pairs = [], 0
    rows = min(_rows(centres), _rows(points))
    own, other = _squares(centres, centres, rows), _squares(centres, points, rows)
    for near, far in zip(own, other, strict=True):
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
    for part in a.split(rows):
        own = part.square().sum(1, keepdim=True)
        yield torch.addmm(own + length, part, b.T, alpha=-2).clamp_(min=0)


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


def _told(said: Float[Tensor, "n k"]) -> Tensor:
    """The inception score of log-probabilities."""
    mean = said.logsumexp(0) - torch.tensor(float(len(said)), dtype=said.dtype).log()
    return (said.exp() * (said - mean)).sum(1).mean().exp()


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
        raise ValueError("features are not finite; look for pictures that can't be right")
    return sets


def _both(real: Tensor, drawn: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    real, drawn = _wide(real.double(), drawn.double())
    if min(len(real), len(drawn)) < least:
        raise ValueError(
            f"{len(real)} real and {len(drawn)} drawn pictures; "
            f"this measure needs at least {least} of each"
        )
    return real, drawn


def _centred(real: Tensor, drawn: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Distances are taken from products, which round less near the origin."""
    real, drawn = _both(real, drawn, least=least)
    mean = real.mean(0)
    return real - mean, drawn - mean
