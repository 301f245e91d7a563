"""A small classifier of the reference pictures: its features, and the classes it assigns."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pathline.metrics.feature import Feature, in_batches, shrinking, shrunk
from pathline.ranges import Positive, PositiveFloat, Seed

WIDTH = 128
EMBED = 512  # images of a batch without gradients


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
    seed: Seed = 0,
    updates: Positive = 300,
    rate: PositiveFloat = 3e-3,
    side: Positive = 32,
    batch: Positive = 64,
) -> Feature:
    """A small network trained on the reference images and their labels; needs no download.

    The note has its accuracy on a held-out tenth of the images. It separates the images that it was
    trained on better than new ones. side: larger images are averaged down to so many pixels. seed:
    of weights, order and the tenth.
    """
    targets = _checked(real, labels)
    # A tenth of the images is held out to measure the classifier itself.
    rng = torch.Generator().manual_seed(seed)
    held, train = torch.randperm(len(real), generator=rng).tensor_split([len(real) // 10])
    network = _network(real.shape[1], int(targets.max()) + 1, seed).to(device)

    def sample_batch() -> tuple[Tensor, Tensor]:
        rows = train[torch.randint(len(train), (batch,), generator=rng)]
        return shrunk(real[rows], side).to(device), targets[rows].to(device)

    _train(network, sample_batch, updates=updates, rate=rate)

    def run(part: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return network(shrunk(part, side).to(device))

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, EMBED, run)

    def logits(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, EMBED, lambda part: network.head(run(part)))

    right = (logits(real[held]).argmax(1) == targets[held]).double().mean().item()
    note = f"held-out accuracy {right:.1%} of {len(held)} images, seed {seed}"
    return Feature(f"classifier-{WIDTH}{shrinking(real, side)}", WIDTH, embed, note, logits)


def _network(channels: int, classes: int, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):  # the initial weights are a function of the seed alone
        torch.manual_seed(seed)
        return Network(channels, classes)


def _train(
    network: Network,
    sample_batch: Callable[[], tuple[Tensor, Tensor]],
    *,
    updates: int,
    rate: float,
) -> None:
    """Train at a falling rate; the network is then frozen, batch norm by its averages."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * update / updates)) / 2
        images, targets = sample_batch()
        optimizer.zero_grad()
        cross_entropy(network.head(network(images)), targets).backward()
        optimizer.step()
    network.eval().requires_grad_(False)


def _checked(real: UInt8[Tensor, "n c h w"], labels: Tensor | None) -> Int[Tensor, " n"]:
    if labels is None:
        raise ValueError(
            "feature=classifier is wrong because the reference images have no labels. "
            "Set feature=pca or dinov2."
        )
    if len(labels) != len(real) or len(real) < 20:
        raise ValueError(
            f"There are {len(real)} images and {len(labels)} labels; "
            "the classifier needs one for each, and at least 20."
        )
    if labels.min() < 0 or labels.unique().numel() < 2:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; "
            "the classifier needs two classes or more, counted from 0"
        )
    return labels.cpu().long()
