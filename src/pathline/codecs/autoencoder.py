"""Convolutional autoencoders: encoder, bottleneck, decoder.

A bottleneck is a module: `heads` encoder outputs a channel; `forward(h, rng)` -> Coded;
`latents(h)` -> raw latents; `settle(raw)` -> quantised latents; `indices(raw)` and `size`
where there are codes (size 0: there are none).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS, WIDEST = 8, 4  # of the norms; the lowest level is at most so many times the width


class Coded(NamedTuple):
    """The output of a bottleneck for a batch in training."""

    z: Tensor  # [B c h w] as the decoder receives it
    cost: Tensor  # scalar: the bottleneck's own, weighted
    terms: dict[str, Tensor]  # scalars to log


class Residual(nn.Module):
    """Two normed 3×3 convolutions and a shortcut; the second starts at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in = _norm(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_out = _norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        h = self.first(F.silu(self.norm_in(x)))
        return self.shortcut(x) + self.second(F.silu(self.norm_out(h)))


class Twice(nn.Module):
    """Nearest upsampling to twice the size, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Autoencoder(nn.Module):
    """Pictures [-1, 1] [B C H W] to raw latents [B c H/factor W/factor] and back.

    patch: pixels of a side that are put into channels first (factor / patch remains for
    halvings); width: channels of the highest level; depth: residual blocks a level.
    Raises ValueError for impossible sizes.
    """

    def __init__(
        self,
        bottleneck: Any,
        *,
        pixels: int,
        channels: int,
        factor: int,
        patch: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        if min(channels, width, depth) < 1:
            raise ValueError(
                "network.channels, width or depth is wrong because each must be at least 1."
            )
        widths = _widths(factor, patch, width)
        outer = pixels * patch**2
        self.pixels, self.channels, self.factor, self.patch = pixels, channels, factor, patch
        self.encoder = _encoder(outer, widths, depth, channels * bottleneck.heads)
        self.bottleneck = bottleneck
        self.decoder = _decoder(outer, widths, depth, channels)

    @property
    def last(self) -> nn.Parameter:
        """The last layer's weights: the gradients there balance reconstruction and critic."""
        return self.decoder[-1].weight  # pyright: ignore[reportReturnType]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        rng: torch.Generator,
        between: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> tuple[Float[Tensor, "b c h2 w2"], Coded]:
        """The training pass. between: applied to the latents before the decoder."""
        coded = self.bottleneck(self._encoded(x), rng)
        return self._decoded(between(coded.z)), coded

    def latents(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """Raw latents, deterministic. Raises ValueError where factor does not divide the size."""
        return self.bottleneck.latents(self._encoded(x))

    def rebuilt(self, raw: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Raw latents to images [-1, 1]; they are quantised first."""
        return self._decoded(self.bottleneck.settle(raw))

    def _encoded(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        if channels != self.pixels:
            raise ValueError(
                f"data.channels={channels} is wrong because this codec has {self.pixels}. "
                f"Set data.channels={self.pixels}."
            )
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"An image of {height}x{width} is wrong because this codec downsamples by "
                f"{self.factor}. Use multiples of {self.factor}."
            )
        return self.encoder(F.pixel_unshuffle(x, self.patch))

    def _decoded(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(self.decoder(z), self.patch)


class Critic(nn.Module):
    """Scores for overlapping patches of an image (PatchGAN, arXiv 1611.07004)."""

    def __init__(self, pixels: int, *, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**level, WIDEST) for level in range(layers)]
        parts: list[nn.Module] = [nn.Conv2d(pixels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(widths):
            parts += [nn.Conv2d(inputs, outputs, 4, 2, 1), _norm(outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        return self.layers(x)


def _widths(factor: int, patch: int, width: int) -> list[int]:
    halvings = math.log2(factor / patch) if factor >= patch > 0 else 0.5
    if halvings != int(halvings):
        raise ValueError(
            f"network.factor={factor} is wrong because it is not network.patch={patch} times a "
            "power of two. Take factor 4, 8 or 16 and patch 1, 2 or 4."
        )
    return [width * min(2**level, WIDEST) for level in range(int(halvings) + 1)]


def _encoder(inputs: int, widths: list[int], depth: int, outputs: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            parts.append(nn.Conv2d(widths[level - 1], width, 3, 2, 1))
        parts += [Residual(width, width) for _ in range(depth)]
    end = nn.Conv2d(widths[-1], outputs, 3, padding=1)
    return nn.Sequential(*parts, _norm(widths[-1]), nn.SiLU(), end)


def _decoder(outputs: int, widths: list[int], depth: int, inputs: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1)]
    for level in reversed(range(len(widths))):
        above = widths[min(level + 1, len(widths) - 1)]
        parts.append(Residual(above, widths[level]))
        parts += [Residual(widths[level], widths[level]) for _ in range(depth - 1)]
        parts += [Twice(widths[level])] if level else []
    return nn.Sequential(
        *parts, _norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], outputs, 3, padding=1)
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, width), width)
