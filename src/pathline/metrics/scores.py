"""Scores of a set of sampled images against real ones, by name."""

import torch
from jaxtyping import Float
from torch import Tensor

from pathline.metrics.frechet import frechet, statistics
from pathline.metrics.manifold import density_coverage, kid, precision_recall

MOST = 10_000  # images of a set for all but the Fréchet distance
LEAST = 50  # images of a set, below which its scores are unreliable
NEAR, WIDE = 3, 5  # neighbours of precision and recall, of density and coverage


def measure(
    real: Float[Tensor, "n d"], sampled: Float[Tensor, "m d"], *, seed: int = 0
) -> dict[str, float]:
    """frechet, kid, precision, recall, density, coverage of sampled images' features.

    seed: of KID's subsets, and of the 10 000 images that represent a larger set, except in the
    Fréchet distance. Scores that need more images than there are, are left out, as `cautions` says.
    Raises ValueError for a set of fewer than 2 images.
    """
    _check_count(real, sampled)
    rng = torch.Generator().manual_seed(seed)
    scores = {"frechet": frechet(statistics(real), statistics(sampled))}
    # The others take time in n²: at most MOST random images of each set.
    real, sampled = _thin(real, rng), _thin(sampled, rng)
    scores["kid"] = kid(real, sampled, rng=rng).mean
    fewest = min(len(real), len(sampled))
    if fewest > NEAR:
        scores |= precision_recall(real, sampled, k=NEAR)._asdict()
    if fewest > WIDE:
        scores |= density_coverage(real, sampled, k=WIDE)._asdict()
    return scores


def baseline(real: Float[Tensor, "n d"], *, seed: int = 0) -> dict[str, float]:
    """The same between two random halves of the real images: the score of a perfect model.

    Each half has n/2 images, so the Fréchet distance is larger than at n.
    """
    if len(real) < 4:
        raise ValueError(f"A baseline needs at least 4 real images; got {len(real)}")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    half = len(real) // 2
    return measure(real[order[:half]], real[order[half : 2 * half]], seed=seed)


def cautions(real: Float[Tensor, "n d"], sampled: Float[Tensor, "m d"]) -> list[str]:
    """Warnings about comparing these sets."""
    n, m, width = len(real), len(sampled), real.shape[1]
    fewest, notes = min(n, m), []
    if fewest < LEAST:
        notes.append(f"{fewest} images are too few: below {LEAST} all scores are mostly chance")
    if fewest < width:
        notes.append(
            f"{fewest} images are fewer than the feature's width {width}: the Fréchet distance "
            "is biased upwards; compare it at equal n only, and look at KID"
        )
    if n != m:
        notes.append(f"{n} real against {m} sampled images: compare scores of equal numbers only")
    if max(n, m) > MOST:
        notes.append(f"all but the Fréchet distance is of {MOST} random images of a larger set")
    for names, k in (("precision and recall", NEAR), ("density and coverage", WIDE)):
        if fewest <= k:
            notes.append(f"{names} need at least {k + 1} images and are left out")
    return notes


def _check_count(real: Tensor, sampled: Tensor) -> None:
    for kind, features in (("real", real), ("sampled", sampled)):
        if len(features) < 2:
            raise ValueError(
                f"The set of {kind} images has {len(features)}; "
                "a set is scored from 2 images on, better from 1000."
            )


def _thin(features: Tensor, rng: torch.Generator) -> Tensor:
    if len(features) <= MOST:
        return features
    return features[torch.randperm(len(features), generator=rng)[:MOST]]
