"""Patches, norms, feed-forward layers, and embeddings of time and text."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.nn.positions import time_sinusoid

EPS = 1e-6


def patchify(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b l d"]:
    """Tokens row by row, each patch as (row, column, channel): the layout of DiT's output.

    Raises ValueError if patch does not divide height and width.
    """
    b, c, height, width = x.shape
    if height % patch or width % patch:
        raise ValueError(patch_error(height, width, patch))
    rows, columns = height // patch, width // patch
    x = x.view(b, c, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b, rows * columns, patch * patch * c)


def unpatchify(
    tokens: Float[Tensor, "b l d"], patch: int, rows: int, columns: int
) -> Float[Tensor, "b c h w"]:
    """The inverse of `patchify`."""
    b, _, width = tokens.shape
    c = width // patch**2
    x = tokens.view(b, rows, columns, patch, patch, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, c, rows * patch, columns * patch)


def patch_embedding(patch_width: int, bottleneck: int, width: int) -> nn.Module:
    """Patches to tokens; with bottleneck > 0 through a low-rank layer without bias (JiT)."""
    if not bottleneck:
        return nn.Linear(patch_width, width)
    narrow = nn.Linear(patch_width, bottleneck, bias=False)
    return nn.Sequential(narrow, nn.Linear(bottleneck, width))


def patch_error(height: int, width: int, patch: int) -> str:
    """The message for an image that patches cannot tile, with the nearest sizes that they can."""
    nearest = {}
    for name, side in (("height", height), ("width", width)):
        if side % patch:
            below = side // patch * patch
            nearest[f"{name} {side}"] = f"{below} or {below + patch}" if below else f"{patch}"
    return (
        f"An image of {height}x{width} cannot be cut into patches of {patch}: "
        f"{' and '.join(nearest)} is no multiple of {patch}. "
        f"Nearest: {'; '.join(nearest.values())}."
    )


def modulate(
    x: Float[Tensor, "b l d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b l d"]:
    """x·(1 + scale) + shift in one pass."""
    return torch.addcmul(shift, x, 1 + scale)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, with gains cast to the input's dtype: fsdp2 gathers them in bf16."""

    def forward(self, x: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def norm(kind: Literal["layer", "rms"], width: int) -> nn.Module:
    """The norm before a modulation: LayerNorm without weights (DiT) or RMSNorm with (JiT)."""
    if kind == "rms":
        return RMSNorm(width, eps=EPS)
    return nn.LayerNorm(width, eps=EPS, elementwise_affine=False)


def gelu(x: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Tanh-approximated GELU."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        # the same function written as a logistic one: compiled for CPU, tanh costs three exps
        k = 2 * math.sqrt(2 / math.pi)
        return x * torch.sigmoid(x * (k + k * 0.044715 * x * x))
    return F.gelu(x, approximate="tanh")


class Gelu(nn.Module):
    """Feed-forward of DiT: tanh-approximated GELU between two linear layers."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return self.down(gelu(self.up(x)))


class SwiGLU(nn.Module):
    """Gated feed-forward (arXiv 2002.05202); gate and value come from one matrix product."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


def feed_forward(kind: Literal["gelu", "swiglu"], width: int, *, bias: bool = True) -> nn.Module:
    """gelu: four times the width; swiglu: 8/3 of it, rounded up to 64, as many weights."""
    if kind == "swiglu":
        return SwiGLU(width, -(-8 * width // (3 * 64)) * 64, bias=bias)
    return Gelu(width, 4 * width, bias=bias)


class TimeEmbedding(nn.Module):
    """Time in [0, 1] -> a vector; in float32 under autocast, since bf16 rounds times too much."""

    def __init__(self, width: int, *, scale: float = 1000.0, frequencies: int = 256) -> None:
        super().__init__()
        self.scale = scale
        self.frequencies = frequencies
        self.up = nn.Linear(frequencies, width)
        self.down = nn.Linear(width, width)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        with torch.autocast(t.device.type, enabled=False):
            sinusoids = time_sinusoid(t.float() * self.scale, self.frequencies)
            return self.down(F.silu(self.up(sinusoids.to(self.up.weight.dtype))))


class TextIn(nn.Module):
    """Text states -> tokens of the network; the norm is for encoders with outlier channels."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(text_width, eps=EPS)
        self.linear = nn.Linear(text_width, width)

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l d"]:
        with torch.autocast(tokens.device.type, enabled=False):
            normalised = self.norm(tokens.to(self.norm.weight.dtype))
        return self.linear(normalised)


def xavier(network: nn.Module) -> None:
    """Uniform Xavier weights and zero biases for every linear layer, from torch's generator."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
