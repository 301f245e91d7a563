"""Points of the plane: what flows there, many small networks at once, exact distances.

Data and network are those of TorchCFM's runner (arXiv 2302.00482): MLP 3×64, σ 0.1, AdamW; but the
learning rate falls from RATE by a cosine, and a batch is smaller, for a training of minutes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.datasets import make_moons, make_s_curve
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.config.pick import function_of
from pathline.flow.couplings import COUPLINGS
from pathline.flow.paths import STRAIGHT, draw_point
from pathline.flow.solvers import integrate
from pathline.flow.times import DRAWS, uniform_grid
from pathline.types import Cond, Point

SIGMA, WIDTH, RATE, POOL = 0.1, 64, 3e-3, 10_000  # POOL: training points of source and of data


class Points(NamedTuple):
    x: np.ndarray  # [n 2]
    labels: np.ndarray  # [n]; of one class where there are none


Draw = Callable[[int, int], Points]  # (n, seed)


class Ends(NamedTuple):
    """What is carried where."""

    source: Draw
    data: Draw


def normal(n: int, seed: int) -> Points:
    return Points(np.random.default_rng(seed).normal(size=(n, 2)), np.zeros(n, int))


def ring(n: int, seed: int, *, radius: float, std: float) -> Points:
    """Eight Gaussians on a circle."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=n)
    centres = radius * np.stack([np.cos(labels * math.pi / 4), np.sin(labels * math.pi / 4)], 1)
    return Points(centres + std * rng.normal(size=(n, 2)), labels)


def moons(n: int, seed: int, *, scale: float = 2.0, shift: float = -1.0) -> Points:
    x, labels = map(np.asarray, make_moons(2 * n, noise=0.05, random_state=seed))  # half of each
    return Points(x[:n] * scale + shift, labels[:n])


def wide_moons(n: int, seed: int) -> Points:
    """Standardised by the mean and deviation of all numbers, times 7."""
    x, labels = map(np.asarray, make_moons(2 * n, noise=0.1, random_state=seed))
    return Points(((x - x.mean()) / x.std() * 7)[:n], labels[:n])


def scurve(n: int, seed: int) -> Points:
    x, _ = make_s_curve(n, noise=0.05, random_state=seed)
    return Points(x[:, [0, 2]] * 1.5, np.zeros(n, int))


class Networks(nn.Module):
    """Many MLPs of equal shape at once: [m b in] -> [m b 2]."""

    def __init__(self, count: int, inputs: int) -> None:
        super().__init__()
        sizes = [inputs, WIDTH, WIDTH, WIDTH, 2]
        weights = [(torch.rand(count, a + 1, b) * 2 - 1) / a**0.5 for a, b in pairwise(sizes)]
        self.weights = nn.ParameterList(weights)  # the last row of each is the bias

    def forward(self, x: Tensor) -> Tensor:
        for number, weight in enumerate(self.weights):
            x = F.selu(x) if number else x
            x = torch.baddbmm(weight[:, -1:], x, weight[:, :-1])
        return x


class Cell(NamedTuple):
    """One network's training: what it learns, how it is coupled, its seed."""

    task: str
    coupling: str
    seed: int


def points_of(cell: Cell, ends: Ends, batch: int) -> Callable[[], Point]:
    """Training points; xt has the path's own noise. Cells that differ in coupling alone see the
    same data, noise and times."""
    rng = torch.Generator().manual_seed(cell.seed)
    pools = [
        draw(POOL, 1000 + 2 * cell.seed + k) for k, draw in enumerate((ends.source, ends.data))
    ]
    source, data = (torch.tensor(pool.x, dtype=torch.float32) for pool in pools)
    labels = torch.tensor(pools[1].labels)
    couple = function_of(COUPLINGS[cell.coupling])

    def from_source(_: Tensor, x1: Tensor, cond: Cond | None) -> Tensor:
        rows = torch.randint(POOL, (batch,), generator=rng)  # in place of draw_point's own noise
        return couple(source[rows], x1, cond)

    def draw() -> Point:
        rows = torch.randint(POOL, (batch,), generator=rng)
        settings = {"path": STRAIGHT, "draw": DRAWS["uniform"], "couple": from_source}
        point = draw_point(data[rows], Cond(labels=labels[rows]), rng, **settings)
        return point._replace(xt=point.xt + SIGMA * torch.randn(batch, 2, generator=rng))

    return draw


def inputs(x: Tensor, t: Tensor | float, labels: Tensor | None, classes: int) -> Tensor:
    """x, t and, of several classes, which: side by side."""
    times = t[..., None] if isinstance(t, Tensor) else x.new_full((*x.shape[:-1], 1), t)
    one_hot = [F.one_hot(labels, classes).to(x.dtype)] if classes and labels is not None else []
    return torch.cat([x, times, *one_hot], -1)


def trained(
    cells: Sequence[Cell], tasks: Mapping[str, Ends], updates: int, batch: int, classes: int
):
    """The networks of all cells, last iterate."""
    torch.manual_seed(0)
    networks = Networks(len(cells), 3 + classes)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=RATE, weight_decay=1e-5, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    feeds = [points_of(cell, tasks[cell.task], batch) for cell in cells]
    for _ in range(updates):
        points = [feed() for feed in feeds]
        x, t, v = (torch.stack([getattr(p, name) for p in points]) for name in ("xt", "t", "v"))
        kinds = [p.labels for p in points if p.labels is not None]
        labels = torch.stack(kinds) if classes else None
        error = networks(inputs(x, t, labels, classes)) - v
        optimizer.zero_grad()
        error.square().mean((1, 2)).sum().backward()  # a sum: no network feels another
        optimizer.step()
        schedule.step()
    return networks


def w2(a: np.ndarray, b: np.ndarray) -> float:
    """Exact distance of two equally large sets of points [n 2]."""
    cost = cdist(a, b, "sqeuclidean")
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


def energy(states: Sequence[tuple[float, Tensor]]) -> Tensor:
    """∫ mean |v|² dt of euler's ways, states [m n 2] by time: [m]."""
    steps = [(b - a).square().sum(-1).mean(-1) / (s - t) for (t, a), (s, b) in pairwise(states)]
    return torch.stack(steps).sum(0)


@torch.no_grad()
def walked(networks: Networks, x: Tensor, steps: int, labels: Tensor | None, classes: int):
    """Euler's ways of x [m n 2] through every network."""

    def field(x: Tensor, t: float) -> Tensor:
        return networks(inputs(x, t, labels, classes))

    return list(integrate(field, x, uniform_grid(steps)))
