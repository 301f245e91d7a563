"""Autoencoders with codes: a codebook that follows its latents, or fixed levels (FSQ).

The raw latent is the continuous one before its code is taken, as in latent diffusion
(CompVis/latent-diffusion:ldm/models/autoencoder.py, VQModelInterface); decoding takes the code.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pathline.codecs.autoencoder import Autoencoder, Coded
from pathline.codecs.losses import commitment as closeness
from pathline.codecs.losses import perplexity, straight
from pathline.ranges import Depth, NotNegativeFloat, Positive, Range, ShareBelowOne, Width

EPS = 1e-5


class Codebook(nn.Module):
    """Codes that are moving averages of the latents nearest to them (arXiv 1711.00937, A.1).

    Counts and sums are buffers and so part of the weights. `learn` moves the codes by the latents
    of the last training pass; rarely used codes are moved to latents of that pass.
    """

    heads = 1
    codes: Tensor  # [K c]
    counts: Tensor  # [K] average hits an update
    sums: Tensor  # [K c] average sum of the latents that hit

    def __init__(
        self, channels: int, size: int, *, decay: float, dead: float, commitment: float
    ) -> None:
        super().__init__()
        if size < 2 or not 0 <= decay < 1:
            raise ValueError(
                f"A codebook of {size} codes with decay {decay} is wrong because "
                "network.size must be at least 2 and network.decay in [0, 1)."
            )
        self.size, self.decay, self.dead, self.weight = size, decay, dead, commitment
        self.register_buffer("codes", torch.empty(size, channels).uniform_(-1 / size, 1 / size))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, channels))
        self.last_pass: tuple[Tensor, Tensor] | None = None

    def forward(self, h: Float[Tensor, "b c h w"], rng: torch.Generator) -> Coded:
        del rng
        z = h.float()
        indices = self.indices(z)
        q = self._taken(indices)
        # Kept for `learn`: codes move only after an update that was taken.
        if self.training and torch.is_grad_enabled():
            self.last_pass = _rows(z.detach()), indices.flatten()
        cost = closeness(z, q)
        terms = {"commitment": cost.detach(), "perplexity": perplexity(indices, self.size)}
        return Coded(straight(z, q), self.weight * cost, terms)

    def latents(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return h.float()

    def settle(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._taken(self.indices(raw))

    def indices(self, raw: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b h w"]:
        """The nearest code of every latent position."""
        b, _, height, width = raw.shape
        with torch.autocast(raw.device.type, enabled=False):
            # |z − code|² without |z|², which all codes share.
            rows = _rows(raw.float())
            distance = self.codes.square().sum(1) - 2 * rows @ self.codes.T
        return distance.argmin(1).view(b, height, width)

    @torch.no_grad()
    def learn(self, rng: torch.Generator) -> None:
        """Move the codes after an update; `rng` samples the latents that replace unused codes."""
        assert self.last_pass is not None, "learn() needs a training pass before it"
        rows, hit = self.last_pass
        # Running counts and sums of the latents by code; a code is the mean of its own.
        hits = torch.bincount(hit, minlength=self.size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, hit, rows)
        self.counts.lerp_(hits, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # Laplace smoothing: a code without latents is not divided by 0.
        total = self.counts.sum()
        share = (self.counts + EPS) / (total + self.size * EPS) * total
        self.codes.copy_(self.sums / share[:, None])
        # Codes that hardly anything uses are moved to latents of this pass.
        sample = torch.randint(len(rows), (self.size,), generator=rng, device=rows.device)
        self._revive(self.counts < self.dead, rows[sample])
        self.last_pass = None

    def _revive(self, dead: Tensor, rows: Tensor) -> None:
        self.codes.copy_(torch.where(dead[:, None], rows, self.codes))
        self.sums.copy_(torch.where(dead[:, None], rows, self.sums))
        self.counts.copy_(torch.where(dead, torch.ones_like(self.counts), self.counts))

    def _taken(self, indices: Tensor) -> Tensor:
        return self.codes[indices].permute(0, 3, 1, 2)


class Levels(nn.Module):
    """Finite scalar quantisation (arXiv 2309.15505): each channel is rounded to one of few levels.

    The raw latent is the bounded number before rounding, in about [-1, 1].
    """

    heads = 1
    reach: Tensor  # [c] below: constants a channel
    offset: Tensor
    shift: Tensor
    unit: Tensor
    top: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(
                f"network.levels={list(levels)} is wrong because each must be at least 3. Raise it."
            )
        self.levels, self.size = levels, math.prod(levels)
        # FSQ's bound: tanh reaches just past the outer levels; even counts are offset by ½.
        counts = torch.tensor(levels, dtype=torch.float32)
        half, offset, unit = (counts - 1) * (1 + 1e-3) / 2, 0.5 * (counts % 2 == 0), counts // 2
        parts = {"reach": half, "offset": offset, "shift": (offset / half).atanh()}
        for name, value in {**parts, "unit": unit, "top": counts - 1 - unit}.items():
            self.register_buffer(name, value.view(-1, 1, 1), persistent=False)

    def forward(self, h: Float[Tensor, "b c h w"], rng: torch.Generator) -> Coded:
        del rng
        raw = self.latents(h)
        settled = self.settle(raw)
        terms = {"perplexity": perplexity(self.indices(raw), self.size)}
        return Coded(straight(raw, settled), raw.new_zeros(()), terms)

    def latents(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        bound = (h.float() + self.shift).tanh() * self.reach - self.offset
        return bound / self.unit

    def settle(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._rounded(raw) / self.unit

    def indices(self, raw: Float[Tensor, "b c h w"]) -> Int64[Tensor, "b h w"]:
        """Mixed radix, the first channel fastest."""
        digits, place = (self._rounded(raw) + self.unit).long(), 1
        total = torch.zeros_like(digits[:, 0])
        for channel, levels in enumerate(self.levels):
            total = total + digits[:, channel] * place
            place *= levels
        return total

    def values(self, indices: Int64[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """The settled latents of these codes."""
        digits = []
        for levels in self.levels:
            digits.append(indices % levels)
            indices = indices // levels
        return (torch.stack(digits, 1) - self.unit) / self.unit

    def _rounded(self, raw: Tensor) -> Tensor:
        return (raw * self.unit).round().maximum(-self.unit).minimum(self.top)


def _rows(z: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def vqvae(
    pixels: int,
    *,
    channels: Width = 4,
    factor: Annotated[int, Range(1, 256)] = 4,
    patch: Positive = 1,
    width: Width = 32,
    depth: Depth = 2,
    size: Annotated[int, Range(2)] = 256,
    decay: ShareBelowOne = 0.95,
    dead: NotNegativeFloat = 0.5,
    commitment: NotNegativeFloat = 0.25,
) -> Autoencoder:
    """A VQ-VAE. size, decay: of the codebook; dead: a code of fewer hits an update is replaced."""
    codebook = Codebook(channels, size, decay=decay, dead=dead, commitment=commitment)
    sizes = {"factor": factor, "patch": patch, "width": width, "depth": depth}
    return Autoencoder(codebook, pixels=pixels, channels=channels, **sizes)


def fsq(
    pixels: int,
    *,
    levels: tuple[Annotated[int, Range(3, 1000)], ...] = (8, 5, 5, 5),
    factor: Annotated[int, Range(1, 256)] = 4,
    patch: Positive = 1,
    width: Width = 32,
    depth: Depth = 2,
) -> Autoencoder:
    """Codes without a codebook: a latent channel for each of `levels`, rounded to so many."""
    sizes = {"factor": factor, "patch": patch, "width": width, "depth": depth}
    return Autoencoder(Levels(levels), pixels=pixels, channels=len(levels), **sizes)
