"""A flow in the plane, with nothing but the mathematics: noise walks into two moons.

One sees the loss fall, then on the picture the ways of particles (grey) from noise to where they
end (blue), over real points (orange): left by 6 euler steps, too coarse, right by 50 heun steps.
Printed is how far drawn points lie from real ones, beside what a perfect flow would give.
"""

import argparse

import torch
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import make_moons
from torch import nn

from pathline.flow import couplings, paths, solvers, times
from pathline.objectives.flow import flow
from pathline.objectives.terms import compose, mse
from pathline.types import Batch, Cond, Output

SIDE = 480  # pixels of a panel, which shows −3 … 3
parser = argparse.ArgumentParser(description="Train a flow in the plane and draw from it.")
parser.add_argument("--updates", type=int, default=2000)
parser.add_argument("--out", default="two_moons.png", help="the picture")
asked = parser.parse_args()
rng = torch.manual_seed(0)  # the only source of chance
layers = nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128)
mlp = nn.Sequential(*layers, nn.SiLU(), nn.Linear(128, 2))


def moons(seed, count=1000):
    points, _ = make_moons(count, noise=0.08, random_state=seed)
    return (torch.tensor(points).float() - torch.tensor([0.5, 0.25])) / 0.7


def distance(one, other):  # mean length of the moves that turn one sample into the other
    cost = torch.cdist(one, other)
    return cost[linear_sum_assignment(cost)].mean().item()


def draw(x1, cond, rng):  # a training point: noise, time, where it is, where it goes
    ways = {"path": paths.STRAIGHT, "draw": times.uniform_draw, "couple": couplings.independent}
    return paths.draw_point(x1, cond, rng, **ways)


def network(x, t, _cond):  # all that an objective asks of one
    return Output(mlp(torch.cat([x, t[:, None]], dim=1)))


def panel(ways, real):  # ways [steps + 1, particles, 2]
    page, scale = Image.new("RGB", (SIDE, SIDE), "white"), torch.tensor([1, -1]) * SIDE / 6
    pen, ways = ImageDraw.Draw(page), ways * scale + SIDE / 2
    pen.point((real * scale + SIDE / 2).flatten().tolist(), fill="orange")
    for way in ways[:, :100].unbind(1):
        pen.line(way.flatten().tolist(), fill="lightgray")
    for x, y in ways[-1].tolist():
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill="royalblue")
    return page


objective, criterion, data = flow(paths.STRAIGHT), compose({"mse": (1.0, mse)}), moons(0, 20_000)
optimizer = torch.optim.AdamW(mlp.parameters(), lr=1e-2)
for update in range(asked.updates):
    keys = torch.randint(len(data), (256,), generator=rng)
    loss, _ = objective.loss(network, Batch(data[keys], Cond(), Cond(), keys), rng, draw, criterion)
    optimizer.zero_grad()
    loss.backward()
    optimizer.param_groups[0]["lr"] = 1e-2 * (1 - update / asked.updates)
    optimizer.step()
    if update % 400 == 0:
        print(f"update {update}: loss {loss.item():.2f}")
real, noise = moons(1), torch.randn(1000, 2, generator=rng)
field, page = torch.no_grad()(objective.field(network, Cond())), Image.new("RGB", (2 * SIDE, SIDE))
for left, step, steps in ((0, solvers.euler, 6), (SIDE, solvers.heun, 50)):
    states = solvers.integrate(field, noise, times.uniform_grid(steps), step)
    ways = torch.stack([x for _, x in states])
    page.paste(panel(ways, real), (left, 0))
    print(f"{step.__name__}, {steps} steps, to real points: {distance(ways[-1], real):.3f}")
print(f"real to real points: {distance(moons(2), real):.3f}, noise: {distance(noise, real):.3f}")
page.save(asked.out)
