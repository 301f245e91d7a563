"""A small classifier of the reference pictures: its vectors, and whether pictures show a class."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pathline.metrics.feature import Feature, in_batches, shrinking, shrunk

WIDTH = 128
EMBED = 512  # pictures of a batch that is only looked at


class Network(nn.Module):
    """Four convolutions, then `head` from vectors [b 128] to classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = []
        for out, stride in ((32, 2), (64, 2), (WIDTH, 2), (WIDTH, 1)):
            conv = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.trunk(x).mean((2, 3))


def classifier(
    real: UInt8[Tensor, "n c h w"],
    labels: Tensor | None,
    device: torch.device,
    *,
    seed: int = 0,
    updates: int = 300,
    rate: float = 3e-3,
    side: int = 32,
    batch: int = 64,
) -> Feature:
    """A small network trained on the reference pictures and their labels; needs no download.

    The note tells its accuracy on a tenth of the pictures that was held out. Vectors of pictures it
    was trained on lie better apart than new ones' do. side: larger pictures are averaged down to so
    many pixels. seed: of weights, order and the tenth.
    """
    known = _checked(real, labels)
    rng = torch.Generator().manual_seed(seed)
    held, train = torch.randperm(len(real), generator=rng).tensor_split([len(real) // 10])
    network = _network(real.shape[1], int(known.max()) + 1, seed).to(device)

    def draw() -> tuple[Tensor, Tensor]:
        rows = train[torch.randint(len(train), (batch,), generator=rng)]
        return shrunk(real[rows], side).to(device), known[rows].to(device)

    _train(network, draw, updates=updates, rate=rate)

    def run(part: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return network(shrunk(part, side).to(device))

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, EMBED, run)

    def logits(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, EMBED, lambda part: network.head(run(part)))

    right = (logits(real[held]).argmax(1) == known[held]).double().mean().item()
    note = f"held-out accuracy {right:.1%} of {len(held)} pictures, seed {seed}"
    return Feature(f"classifier-{WIDTH}{shrinking(real, side)}", WIDTH, embed, note, logits)


def _network(channels: int, classes: int, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):  # the initial weights are a function of the seed alone
        torch.manual_seed(seed)
        return Network(channels, classes)


def _train(
    network: Network, draw: Callable[[], tuple[Tensor, Tensor]], *, updates: int, rate: float
) -> None:
    """Weights for use: trained at a falling rate, frozen, batch norm by its averages."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * update / updates)) / 2
        pictures, known = draw()
        optimizer.zero_grad()
        cross_entropy(network.head(network(pictures)), known).backward()
        optimizer.step()
    network.eval().requires_grad_(False)


def _checked(real: UInt8[Tensor, "n c h w"], labels: Tensor | None) -> Int[Tensor, " n"]:
    if labels is None:
        raise ValueError(
            "features=classifier is trained on labels, but the reference pictures have none; "
            "use features=pca or dinov2"
        )
    if len(labels) != len(real) or len(real) < 20:
        raise ValueError(
            f"{len(real)} pictures came with {len(labels)} labels; "
            "the classifier needs one each, and at least 20"
        )
    if labels.min() < 0 or labels.unique().numel() < 2:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; "
            "the classifier needs two classes or more, counted from 0"
        )
    return labels.cpu().long()
