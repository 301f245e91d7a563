"""A small KL autoencoder (arXiv 1312.6114, 2112.10752): latents are sampled around their means."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathline.codecs.autoencoder import Autoencoder, Coded
from pathline.codecs.losses import kl as divergence
from pathline.ranges import Depth, NotNegativeFloat, Positive, Range, Width

LOGVAR = (-30.0, 20.0)


class Gaussian(nn.Module):
    """Mean and log-variance of every latent number; training samples, encoding takes the mean."""

    heads, size = 2, 0

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, h: Float[Tensor, "b c h w"], rng: torch.Generator) -> Coded:
        mean, logvar = h.float().chunk(2, dim=1)
        logvar = logvar.clamp(*LOGVAR)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        cost = divergence(mean, logvar)
        z = mean + (0.5 * logvar).exp() * noise
        return Coded(z, self.weight * cost, {"kl": cost.detach()})

    def latents(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return h.float().chunk(2, dim=1)[0]

    def settle(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return raw


def kl_small(
    pixels: int,
    *,
    channels: Width = 4,
    factor: Annotated[int, Range(1, 256)] = 4,
    patch: Positive = 1,
    width: Width = 32,
    depth: Depth = 2,
    kl: NotNegativeFloat = 1e-6,
) -> Autoencoder:
    """A small KL autoencoder. channels: of the latents; kl: weight of the summed divergence."""
    sizes = {"factor": factor, "patch": patch, "width": width, "depth": depth}
    return Autoencoder(Gaussian(kl), pixels=pixels, channels=channels, **sizes)
