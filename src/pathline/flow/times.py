"""Times: random ones of training (DRAWS), grids of sampling (GRIDS), and their shift to noise."""

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from pathline.ranges import Mean, PositiveFloat, Range, Share

Data = Float[Tensor, "b *shape"]
Times = Float[Tensor, " b"]
Grid = tuple[float, ...]
Noise = Annotated[float, Range(1e-6, 1e6)]  # a noise level, whose powers are computed


def shifted(t: Any, shift: float) -> Any:
    """t / (t + (1 − t)·shift): above 1 shifts to noise (SD3 arXiv 2403.03206, in our time)."""
    return t / (t + (1 - t) * shift) if shift != 1 else t


def resolution_shift(channels: int, height: int, width: int) -> float:
    """The shift for data of this size, sqrt(C·H·W / 4096), never below 1 (RAE, arXiv 2510.11690).

    Use the same one for DRAWS and GRIDS.
    """
    return max(1.0, math.sqrt(channels * height * width / 4096))


def fixed(x1: Data, _: torch.Generator, *, t: float) -> Times:
    """The same time for every row, as validation takes it; no row of DRAWS."""
    return torch.full((len(x1),), t, device=x1.device)


def uniform_draw(x1: Data, rng: torch.Generator, *, shift: PositiveFloat = 1.0) -> Times:
    """Uniform in [0, 1]."""
    return shifted(_rand(x1, rng), shift)


def logit_normal(
    x1: Data,
    rng: torch.Generator,
    *,
    mean: Mean = 0.0,
    std: PositiveFloat = 1.0,
    shift: PositiveFloat = 1.0,
) -> Times:
    """sigmoid(N(mean, std²)): a mean below 0 leans to noise (JiT: −0.8, 0.8), SD3: 0, 1."""
    return shifted(torch.sigmoid(mean + std * _randn(x1, rng)), shift)


def mode(
    x1: Data,
    rng: torch.Generator,
    *,
    scale: Annotated[float, Range(-1, 1.75)] = 1.29,
    shift: PositiveFloat = 1.0,
) -> Times:
    """SD3's draw with a mode in the middle; scale −1 … 1.75, 0 is uniform (arXiv 2403.03206)."""
    u = _rand(x1, rng)
    t = u + scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    return shifted(t.clamp(0, 1), shift)


def skewed(
    x1: Data,
    rng: torch.Generator,
    *,
    mean: Mean = -1.2,
    std: PositiveFloat = 1.2,
    shift: PositiveFloat = 1.0,
) -> Times:
    """1 / (1 + s), log s ~ N(mean, std²): EDM's noise levels, leaning to data.

    facebookresearch/flow_matching:examples/image, the CIFAR-10 setting.
    """
    s = torch.exp(mean + std * _randn(x1, rng))
    return shifted((1 / (1 + s)).clamp(min=1e-4), shift)


def stratified(x1: Data, rng: torch.Generator, *, shift: PositiveFloat = 1.0) -> Times:
    """One time in each B-th of [0, 1], all at one random offset, in random order."""
    rows = torch.randperm(len(x1), generator=rng, device=x1.device)
    offset = torch.rand(1, generator=rng, device=x1.device)
    return shifted(((rows + offset) / len(x1)).clamp(max=1), shift)


def uniform_grid(steps: int, *, shift: PositiveFloat = 1.0) -> Grid:
    """Steps of equal length, then shifted."""
    return _checked(shifted(i / steps, shift) for i in range(steps + 1))


def explicit(
    _steps: int, *, times: tuple[Share, ...] = (0.0, 1.0), shift: PositiveFloat = 1.0
) -> Grid:
    """These times, with 0 and 1; their count decides the number of steps, not the argument."""
    return _checked(shifted(float(t), shift) for t in times)


def edm(
    steps: int,
    *,
    rho: Annotated[float, Range(0.1, 100)] = 7.0,
    sigma_min: Noise = 0.002,
    sigma_max: Noise = 80.0,
    shift: PositiveFloat = 1.0,
) -> Grid:
    """EDM's noise levels s as t = 1 / (1 + s), fine towards data (arXiv 2206.00364).

    The first time is 0 instead of 1 / (1 + sigma_max): we start from noise alone.
    """
    low, high = (s ** (1 / rho) for s in (sigma_min, sigma_max))
    levels = ((high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(1, steps))
    return _checked((0.0, *(shifted(1 / (1 + s), shift) for s in levels), 1.0))


def begun_at(grid: Grid, start: float) -> Grid:
    """The rest of the grid for a state at time `start`, in [0, 1)."""
    if not 0 <= start < 1:
        raise ValueError(
            f"A walk cannot start at t = {start}: start at 0 (noise) or later, below 1."
        )
    return (start, *(t for t in grid if t > start))


def _checked(times: Any) -> Grid:
    grid = tuple(times)
    if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1:
        raise ValueError(
            f"times={_short(grid)} is wrong because a grid begins with 0 (noise) and ends with 1 "
            "(data). Set e.g. [0, 0.5, 1]."
        )
    # Two equal times would be a step of length 0, by which multistep solvers divide.
    for i, (t, t_next) in enumerate(pairwise(grid)):
        if not t < t_next:
            raise ValueError(
                f"times is wrong because it must increase, but {t} (number {i}) is followed by "
                f"{t_next}."
            )
    return grid


def _short(grid: Grid) -> str:
    return f"{grid[:4]} … {grid[-1]}" if len(grid) > 6 else str(grid)


def _rand(x1: Tensor, rng: torch.Generator) -> Tensor:
    return torch.rand(len(x1), generator=rng, device=x1.device)


def _randn(x1: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(len(x1), generator=rng, device=x1.device)


DRAWS = {
    "uniform": uniform_draw,
    "logit_normal": logit_normal,
    "mode": mode,
    "skewed": skewed,
    "stratified": stratified,
}
GRIDS = {"uniform": uniform_grid, "explicit": explicit, "edm": edm}
