"""Perceptual distance of two images: of their VGG-16 features, where its weights are available."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.weights import load_weights, read_tensors

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: halve
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images it was trained on


def perceptual(
    features: nn.Sequential, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    """LPIPS without its trained weights (arXiv 1801.03924): squared distance of unit features.

    Taken before every halving and at the end; x, y in [-1, 1], of 16 pixels a side and more.
    """
    pairs = zip(_taps(features, x), _taps(features, y), strict=True)
    each = [(F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in pairs]
    return torch.stack(each).sum()


def vgg(path: str) -> nn.Sequential:
    """VGG-16's convolutions, frozen, from torchvision's vgg16 file (.pth or .safetensors).

    Raises FileNotFoundError, or ValueError for a file of other weights.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"loss.vgg={file} is wrong because there is no such file. Name torchvision's vgg16 "
            "weights (vgg16-397923af.pth)."
        )
    state = {
        name.removeprefix("features."): value
        for name, value in read_tensors(file).items()
        if name.startswith("features.")
    }
    # On meta: no time for random weights that the file replaces.
    with torch.device("meta"):
        network = nn.Sequential(*_layers())
    network = network.to_empty(device="cpu")
    return load_weights(network, state, f"VGG-16 in {file}").eval().requires_grad_(False)


def _layers() -> Iterator[nn.Module]:
    inputs = 3
    for width in WIDTHS:
        if not width:
            yield nn.MaxPool2d(2)
            continue
        yield from (nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU())
        inputs = width


def _taps(features: nn.Sequential, x: Tensor) -> Iterator[Tensor]:
    mean, std = (torch.tensor(s, device=x.device).view(3, 1, 1) for s in (MEAN, STD))
    h = ((x + 1) / 2 - mean) / std
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            yield h
        h = layer(h)
    yield h
