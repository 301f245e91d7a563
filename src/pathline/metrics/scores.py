"""All that is said about a set of drawn pictures against real ones, by name."""

import torch
from jaxtyping import Float
from torch import Tensor

from pathline.metrics.frechet import frechet, statistics
from pathline.metrics.manifold import density_coverage, kid, precision_recall

MOST = 10_000  # pictures of a set for all but the Fréchet distance
NEAR, WIDE = 3, 5  # neighbours of precision and recall, of density and coverage


def measure(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, seed: int = 0
) -> dict[str, float]:
    """frechet, kid, precision, recall, density, coverage of drawn pictures' features.

    seed: of KID's subsets, and of the 10 000 pictures that stand for a larger set, except in the
    Fréchet distance. What needs more pictures than there are is left out, and `cautions` says so.
    Raises ValueError for a set of fewer than 2 pictures.
    """
    _refuse_few(real, drawn)
    rng = torch.Generator().manual_seed(seed)
    found = {"frechet": frechet(statistics(real), statistics(drawn))}
    real, drawn = _some(real, rng), _some(drawn, rng)
    found["kid"] = kid(real, drawn, rng=rng).mean
    fewest = min(len(real), len(drawn))
    if fewest > NEAR:
        found |= precision_recall(real, drawn, k=NEAR)._asdict()
    if fewest > WIDE:
        found |= density_coverage(real, drawn, k=WIDE)._asdict()
    return found


def baseline(real: Float[Tensor, "n d"], *, seed: int = 0) -> dict[str, float]:
    """The same between two random halves of the real pictures: what a perfect model would get.

    Each half has n/2 pictures, so the Fréchet distance is larger than at n.
    """
    if len(real) < 4:
        raise ValueError(f"a baseline needs at least 4 real pictures; got {len(real)}")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    half = len(real) // 2
    return measure(real[order[:half]], real[order[half : 2 * half]], seed=seed)


def cautions(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"]) -> list[str]:
    """What a reader of these sets' measures must know; empty where nothing."""
    n, m, width = len(real), len(drawn), real.shape[1]
    fewest, said = min(n, m), []
    if fewest < width:
        said.append(
            f"{fewest} pictures are fewer than the feature's width {width}: the Fréchet distance "
            "is biased upwards; compare it at equal n only, and look at KID"
        )
    if n != m:
        said.append(f"{n} real against {m} drawn pictures: compare with equal numbers only")
    if max(n, m) > MOST:
        said.append(f"all but the Fréchet distance is of {MOST} pictures of a larger set")
    for names, k in (("precision and recall", NEAR), ("density and coverage", WIDE)):
        if fewest <= k:
            said.append(f"{names} need at least {k + 1} pictures and are left out")
    return said


def _refuse_few(real: Tensor, drawn: Tensor) -> None:
    for what, found in (("real", real), ("drawn", drawn)):
        if len(found) < 2:
            raise ValueError(
                f"the set of {what} pictures has {len(found)}; "
                "a set is measured from at least 2 pictures, better 1000"
            )


def _some(features: Tensor, rng: torch.Generator) -> Tensor:
    if len(features) <= MOST:
        return features
    return features[torch.randperm(len(features), generator=rng)[:MOST]]
