"""Features that images are compared by, from extractors whose name includes the resizing."""

import torch
from jaxtyping import Float, UInt8
from scipy.linalg import eigh
from torch import Tensor
from torch.nn.functional import normalize

from pathline.metrics.classifier import classifier
from pathline.metrics.clip_score import clip_score
from pathline.metrics.feature import Embed, Extractor, Feature, in_batches, shrinking, shrunk
from pathline.metrics.inception import inception
from pathline.metrics.pretrained_features import clip, dinov2
from pathline.ranges import Positive

__all__ = ["FEATURES", "Embed", "Feature", "classifier", "clip", "dinov2", "inception", "pca"]

MOST = 4096  # images that the axes are computed from


def pca(
    real: UInt8[Tensor, "n c h w"],
    labels: Tensor | None,
    device: torch.device,
    *,
    width: Positive = 64,
    side: Positive = 32,
    batch: Positive = 4096,
) -> Feature:
    """Raw pixels on the principal axes of the reference images; no download.

    width: number of axes. side: larger images are averaged down to so many pixels.
    """
    del labels
    if len(real) < 2:
        raise ValueError(f"principal axes need at least 2 reference images; got {len(real)}")
    # Axes of at most MOST images, evenly taken, in float64.
    flat = shrunk(real[:: -(-len(real) // MOST)], side).flatten(1).double()
    width, mean = min(width, *flat.shape), flat.mean(0)
    axes = _axes(flat - mean, width).to(device, torch.float32)
    start = mean.to(device, torch.float32)

    def run(part: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return (shrunk(part, side).to(device).flatten(1) - start) @ axes

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, batch, run)

    return Feature(f"pca-{width}{shrinking(real, side)}", width, embed)


def _axes(spread: Float[Tensor, "n d"], width: int) -> Float[Tensor, "d k"]:
    """The directions of most variance, from the smaller of covariance and Gram matrix."""
    n, d = spread.shape
    gram = (spread.T @ spread if d <= n else spread @ spread.T).numpy()
    _, vectors = eigh(gram, subset_by_index=[len(gram) - width, len(gram) - 1])
    axes = torch.from_numpy(vectors).flip(1)
    return axes if d <= n else normalize(spread.T @ axes, dim=0)


FEATURES = {
    "pca": Extractor(pca, "FD-pca"),
    "classifier": Extractor(classifier, "FD-classifier", has_reference_classes=True),
    "inception": Extractor(inception, "FID", is_pretrained=True),
    "dinov2": Extractor(dinov2, "FD-dinov2", is_pretrained=True),
    "clip": Extractor(
        clip, "FD-clip", is_pretrained=True, has_cmmd=True, score_captions=clip_score
    ),
}
