"""A flow in the plane, with nothing but the mathematics: noise walks into two moons.

    python examples/1_two_moons.py --out two_moons.png

One sees a falling loss and, on the picture, the ways of some particles from noise (grey) to where
they end (blue), drawn once with 6 coarse euler steps, which miss the moons' tips, and once with 50
heun steps. Printed is how far the drawn points must be moved to become real ones, beside the same
number for two real samples: no flow gets below that.
"""

import argparse

import torch
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import make_moons
from torch import nn

from pathline.flow.couplings import independent
from pathline.flow.paths import STRAIGHT, draw_point
from pathline.flow.solvers import euler, heun, integrate
from pathline.flow.times import uniform_draw, uniform_grid
from pathline.objectives.flow import flow
from pathline.objectives.terms import compose, mse
from pathline.types import Batch, Cond, Output

SIDE, SHOWN = 480, 120  # pixels of a panel; particles whose way is drawn


class Mlp(nn.Module):
    """(x [B 2], t [B], cond) -> Output: all that an objective asks of a network."""

    def __init__(self, width=192):
        super().__init__()
        sizes = [(3, width), (width, width), (width, width)]
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x, t, _cond, _r=None):
        return Output(self.layers(torch.cat([x, t[:, None]], dim=1)))


def moons(count, seed):
    """Points of the two moons, about mean 0 and standard deviation 1."""
    points, _ = make_moons(count, noise=0.05, random_state=seed)
    return (torch.tensor(points).float() - torch.tensor([0.5, 0.25])) / 0.7


def distance(one, other):
    """Mean length of the shortest moves that turn one sample into the other (Wasserstein-1)."""
    cost = torch.cdist(one, other)
    return cost[linear_sum_assignment(cost)].mean().item()


def panel(states, real):
    """The real points, the ways of some particles, and where all of them ended."""
    page = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(page)
    ways = [((x + 3) / 6 * SIDE).tolist() for _, x in states]
    for x, y in ((real + 3) / 6 * SIDE).tolist():
        pen.point((x, SIDE - y), fill="orange")
    for way in zip(*(x[:SHOWN] for x in ways), strict=True):
        pen.line([(x, SIDE - y) for x, y in way], fill="lightgray")
    for x, y in ways[-1]:
        pen.ellipse((x - 1, SIDE - y - 1, x + 1, SIDE - y + 1), fill="royalblue")
    return page


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--updates", type=int, default=3000)
parser.add_argument("--out", default="two_moons.png")
asked = parser.parse_args()

torch.manual_seed(0)  # the first weights; all other chance comes from rng
rng, network = torch.Generator().manual_seed(0), Mlp()
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.updates)
objective, criterion, data = flow(STRAIGHT), compose({"mse": (1.0, mse)}), moons(20_000, 0)


def draw(x1, cond, rng):
    return draw_point(x1, rng, path=STRAIGHT, draw=uniform_draw, couple=independent, cond=cond)


for update in range(asked.updates):
    keys = torch.randint(len(data), (512,), generator=rng)
    batch = Batch(data[keys], Cond(), Cond(), keys)
    loss, _ = objective.loss(network, batch, rng, draw, criterion)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    fall.step()
    if update % max(1, asked.updates // 6) == 0:
        print(f"update {update:5d}  loss {loss.item():.3f}")

real, noise = moons(1000, 1), torch.randn(1000, 2, generator=rng)
page = Image.new("RGB", (2 * SIDE, SIDE))
for place, (step, steps) in enumerate([(euler, 6), (heun, 50)]):
    with torch.no_grad():
        states = list(integrate(objective.field(network, Cond()), noise, uniform_grid(steps), step))
    page.paste(panel(states, real), (place * SIDE, 0))
    print(f"{step.__name__}, {steps} steps: {distance(states[-1][1], real):.3f} from real points")
print(f"real points from other real points: {distance(moons(1000, 2), real):.3f}")
print(f"noise from real points: {distance(noise, real):.3f}")
page.save(asked.out)
print(f"look at {asked.out}")
