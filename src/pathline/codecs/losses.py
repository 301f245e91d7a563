"""Training of codecs: losses of images and latents, augmentations of latents, metrics.

Images are in [-1, 1]; every loss is a scalar.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

Comparison = Callable[[Tensor, Tensor], Tensor]  # of two batches of images -> scalar
LEAST, PARTS = 8, 32  # an equivariance update scales by 8/32 … 32/32


class Turn(NamedTuple):
    """A transform under which latents and images should be equivariant."""

    scale: float = 1.0
    quarters: int = 0


def edges(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """L1 between the gradients of two images: sharpness without a pretrained network."""
    return sum(((x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (-2, -1)), x.new_zeros(()))


def compared(
    x: Float[Tensor, "b c h w"],
    y: Float[Tensor, "b c h w"],
    weighted: Mapping[str, tuple[float, Comparison]],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The weighted sum of comparisons, and each one's value by name."""
    terms = {name: compare(y, x) for name, (_, compare) in weighted.items()}
    total = sum((weighted[name][0] * term for name, term in terms.items()), x.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}


def kl(mean: Float[Tensor, "b c h w"], logvar: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """KL(N(mean, exp logvar) ‖ N(0, 1)), summed over a latent, mean over the batch."""
    each = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return each.flatten(1).sum(1).mean()


def commitment(z: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Squared distance of latents to their codes; only the latents get a gradient."""
    return F.mse_loss(z, q.detach())


def straight(z: Float[Tensor, "b c h w"], q: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The value of q with the gradient of z (arXiv 1308.3432)."""
    return z + (q - z).detach()


def noised(
    z: Float[Tensor, "b c h w"], rng: torch.Generator, scale: float
) -> Float[Tensor, "b c h w"]:
    """(1 − τ)·z + τ·scale·ε with τ ~ U(0, 1) for each image (l-DeTok, arXiv 2507.15856)."""
    tau = torch.rand(len(z), 1, 1, 1, generator=rng, device=z.device)
    noise = torch.randn(z.shape, generator=rng, device=z.device)
    return (1 - tau) * z + tau * scale * noise


def draw_turn(rng: torch.Generator, share: float) -> Turn:
    """With probability `share` a scaling and quarter turns, else the identity."""
    # Three numbers whatever comes of them, so that later noise does not depend on it.
    coin = torch.rand(3, generator=rng, device=rng.device).tolist()
    if coin[0] >= share:
        return Turn()
    steps = PARTS - LEAST + 1
    return Turn((LEAST + int(coin[1] * steps)) / PARTS, int(coin[2] * 4))


def turned(
    x: Float[Tensor, "b c h w"], turn: Turn, size: tuple[int, int]
) -> Float[Tensor, "b c h2 w2"]:
    """x scaled to `size` (height, width before the quarter turns), then turned."""
    if x.shape[2:] != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    return x.rot90(turn.quarters, (2, 3)) if turn.quarters else x


def scaled(height: int, width: int, turn: Turn) -> tuple[int, int]:
    """The latent size after a turn's scaling; at least one."""
    return max(1, round(height * turn.scale)), max(1, round(width * turn.scale))


def hinge(real: Float[Tensor, "b 1 h w"], rebuilt: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Hinge loss of a critic, from its scores of real and reconstructed images."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + rebuilt).mean())


def balance(
    rebuilding: Float[Tensor, ""], critique: Float[Tensor, ""], last: Tensor
) -> Float[Tensor, ""]:
    """The weight of the critic's loss that makes its gradient as large as the reconstruction's.

    ‖∇ rebuilding‖ / (‖∇ critique‖ + 1e-4) at the weights `last`, within [0, 1e4]
    (CompVis/taming-transformers:taming/modules/losses/vqperceptual.py).
    """
    # At the last layer only: whole gradients would cost two more backward passes.
    norms = [
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
        for loss in (rebuilding, critique)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()


def perplexity(indices: Int64[Tensor, "*n"], size: int) -> Float[Tensor, ""]:
    """exp of the entropy of the codes: 1 if one is used, `size` if all are used equally."""
    share = torch.bincount(indices.flatten(), minlength=size).float() / indices.numel()
    return torch.special.entr(share).sum().exp()


def psnr(first: UInt8[Tensor, "b c h w"], second: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in decibels; 99 for equal images."""
    error = (first.float() - second.float()).square().flatten(1).mean(1)
    return (20 * math.log10(255) - 10 * error.log10()).clamp(max=99.0)


COMPARISONS: dict[str, Comparison] = {"l1": F.l1_loss, "mse": F.mse_loss, "edges": edges}
