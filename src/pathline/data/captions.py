"""Which of several captions an example takes."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def choose(
    uniform: Float[Tensor, " n"], weights: Sequence[Sequence[int | float]]
) -> Int64[Tensor, " n"]:
    """The number of the caption that each row takes, by its weights; −1 for a row without any.

    uniform: in [0, 1). weights: of any sum. Raises ValueError for others.
    """
    if len(uniform) != len(weights):
        raise ValueError(f"{len(uniform)} numbers came with the weights of {len(weights)} rows")
    most = max(map(len, weights), default=0)
    rows = [[*row, *[0] * (most - len(row))] for row in weights]
    # Inverse of the cumulative weights at a uniform number.
    table = torch.tensor(rows, dtype=torch.float64).view(len(rows), most)
    sums = table.cumsum(1)
    total = sums[:, -1:] if most else table.sum(1, keepdim=True)
    given = torch.tensor([len(row) > 0 for row in weights], dtype=torch.bool)
    fair = (table >= 0).all(1) & total.isfinite().squeeze(1) & ((total > 0).squeeze(1) | ~given)
    wrong = ~(fair & (uniform >= 0) & (uniform < 1))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} has the weights {tuple(weights[row])} and the number {uniform[row]:g}: "
            "wanted weights of at least 0, not all 0, and a number in [0, 1)"
        )
    # The first place whose cumulative weight exceeds uniform · total.
    place = (sums <= uniform[:, None] * total).sum(1)
    last = (sums < total).sum(1)  # rounding must not lead past it, nor to a weight of 0
    return torch.where(given, torch.minimum(place, last), -1)


def shared(weights: Sequence[float], of: Sequence[int]) -> list[float]:
    """The weight of each arrangement: its caption's, shared among all of that caption.

    weights: of a picture's first, second, … caption, the last one for all further. of: the number
    of the caption that each arranges.
    """
    counts = Counter(of)
    return [weights[min(number, len(weights) - 1)] / counts[number] for number in of]


def missing_captions(captions: Mapping[str, Sequence[str] | str | None]) -> str:
    """A sentence where pictures have no caption; "" where all have. captions: by picture's key."""
    missing = [key for key, texts in captions.items() if not texts]
    if not missing:
        return ""
    return (
        f"{len(missing)} of {len(captions)} pictures have no caption, the first {missing[0]}. "
        "Caption them, or train them unconditionally with data.missing_captions=null."
    )


def refuse_missing_captions(captions: Mapping[str, Sequence[str] | str | None]) -> None:
    """Raise ValueError where a picture has no caption. captions: by the key of the picture."""
    if problem := missing_captions(captions):
        raise ValueError(problem)
