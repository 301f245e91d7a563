"""l-DeTok: a ViT tokenizer trained to denoise its latents (Yang et al. 2025; Jiawei-Yang/DeTok)."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.codecs.diffusers_folder import find_file, identify
from pathline.codecs.pretrained import Description, pretrained_codec, unless_default
from pathline.dtypes import Dtype
from pathline.ranges import Positive
from pathline.types import Codec, Facts
from pathline.weights import load_weights, read_tensors

HIGH, LOW = 7.0, 7e-4  # cycles of the rotary positions over the whole image
HEADS = {1152: 16, 1280: 16}  # the other widths have heads of 64


def detok(
    facts: Facts,
    *,
    path: str = "jjiaweiyang/l-DeTok",
    file: str = "detok-BB-gamm3.0-m0.7-decoder_tuned.pth",
    dtype: Dtype = "fp32",
    channels: Positive = 16,
    patch: Positive = 16,
    size: Positive = 256,
) -> Codec:
    """l-DeTok (any of its sizes): squares of 256; raw is the posterior's mean, its EMA weights.

    path: a folder or hub name with `file`, or the file itself (.pth or .safetensors).
    channels, patch, size: of the published weights; others are refused when they are loaded.
    No constants are published with it: its statistics come from `pathline preprocess`.
    """
    single = Path(path).expanduser()
    weights = single if single.is_file() else find_file(path, file)
    settings = {"file": None if single.exists() else file}
    settings |= unless_default(dtype=(dtype, "fp32"))
    id = identify("detok", path, [weights], **settings)
    description = Description(id, channels, patch, side=size)
    load = partial(_load, weights, channels, patch, size)
    functions = {"encode": DeTok.encode, "decode": DeTok.decode}
    return pretrained_codec(facts, description, load, **functions, dtype=dtype)


class Attention(nn.Module):
    """Fused q, k, v and rotated q, k, in the published names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        b, length, width = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # b heads l k
        y = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v)
        return self.proj(y.transpose(1, 2).reshape(b, length, width))


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(2 / 3 * width * 4.0)
        self.w12 = nn.Linear(width, 2 * inner)
        self.w3 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), SwiGLU(width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """Learned and rotary positions, a norm, blocks, a norm."""

    rotation: Tensor

    def __init__(self, width: int, depth: int, grid: int) -> None:
        super().__init__()
        heads = HEADS.get(width, max(1, width // 64))
        self.grid = grid
        self.positional_embedding = nn.Parameter(torch.zeros(1, grid**2, width))
        self.ln_pre, self.ln_post = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.register_buffer("rotation", rotations(width // heads, grid), persistent=False)

    def run_blocks(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.transformer:
            x = block(x, self.rotation)
        return self.ln_post(x)


class Encoder(Tower):
    def __init__(self, width: int, depth: int, grid: int, patch: int, channels: int) -> None:
        super().__init__(width, depth, grid)
        self.patch_embed = nn.Sequential(nn.Conv2d(3, width, patch, patch))
        self.latent_head = nn.Linear(width, 2 * channels)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l c2"]:
        """Pixels in [-1, 1] to mean and log variance."""
        return self.latent_head(self.run_blocks(self.patch_embed(x).flatten(2).transpose(1, 2)))


class Decoder(Tower):
    def __init__(self, width: int, depth: int, grid: int, patch: int, channels: int) -> None:
        super().__init__(width, depth, grid)
        self.patch = patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))  # of its training; unused here
        self.decoder_embed = nn.Linear(channels, width)
        self.ffn = nn.Sequential(nn.Identity(), nn.Conv2d(width, 3 * patch**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "b l c"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to pixels in about [-1, 1]; a patch is laid out (row, column, colour)."""
        y = (
            self.run_blocks(self.decoder_embed(z))
            .transpose(1, 2)
            .unflatten(2, (self.grid, self.grid))
        )
        b, _, h, w = y.shape
        patches = self.ffn(y).view(b, self.patch, self.patch, 3, h, w)
        whole = patches.permute(0, 3, 4, 1, 5, 2).reshape(b, 3, h * self.patch, w * self.patch)
        return self.conv_out(whole)


class DeTok(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """The posterior's mean, without masks and noise."""
        mean, _ = self.encoder(x).chunk(2, -1)
        grid = self.encoder.grid
        return mean.transpose(1, 2).unflatten(2, (grid, grid)).contiguous()

    def decode(self, raw: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels in about [-1, 1]."""
        tokens = raw.flatten(2).transpose(1, 2)
        return self.decoder(tokens.to(self.decoder.conv_out.weight.dtype))


def rotations(head: int, grid: int) -> Float[Tensor, "2 l k"]:
    """cos and sin of every position: rows rotate the first half of a head, columns the second."""
    waves = HIGH * (HIGH / LOW) ** torch.linspace(0, -1, head // 4)
    waves = 2 * torch.pi * waves.repeat(2)
    place = torch.linspace(0, 1, grid)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    angle = torch.cat([rows.reshape(-1, 1) * waves, columns.reshape(-1, 1) * waves], 1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Neighbouring channels rotated as pairs (each by a frequency of its own, as in training)."""
    cos, sin = rotation
    half = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cos + half * sin


def _load(file: Path, channels: int, patch: int, size: int) -> nn.Module:
    state = _read_state(file)
    # First weights are overwritten: the run's random numbers must not depend on them.
    with torch.random.fork_rng(devices=[]):
        network = build_empty(state, file)
    sizes = {
        "channels": network.decoder.decoder_embed.in_features,
        "patch": network.decoder.patch,
        "size": network.encoder.grid * network.decoder.patch,
    }
    settings = {"channels": channels, "patch": patch, "size": size}
    right = [f"codec.{name}={value}" for name, value in sizes.items() if settings[name] != value]
    if right:
        raise ValueError(f"The weights of {file} have other sizes. Set {' '.join(right)}.")
    return load_weights(network, state, file)


def build_empty(state: Mapping[str, Tensor], name: Path | str) -> DeTok:
    """A network of the shapes of these weights."""
    try:
        patch = state["encoder.patch_embed.0.weight"].shape[-1]
        channels = state["decoder.decoder_embed.weight"].shape[1]
        sides = []
        for side in ("encoder", "decoder"):
            length, width = state[f"{side}.positional_embedding"].shape[1:]
            sides.append((width, _depth(state, side), round(length**0.5), patch, channels))
    except KeyError as error:
        raise ValueError(f"{name} has no l-DeTok: {error} is missing.") from error
    return DeTok(Encoder(*sides[0]), Decoder(*sides[1]))


def _depth(state: Mapping[str, Tensor], side: str) -> int:
    matches = (re.match(rf"{side}\.transformer\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _read_state(file: Path) -> dict[str, Tensor]:
    """The EMA weights, else the weights, in float32."""
    content = read_tensors(file)
    state = content.get("model_ema") or content.get("model") or content
    return {name: value.float() for name, value in state.items() if isinstance(value, Tensor)}
