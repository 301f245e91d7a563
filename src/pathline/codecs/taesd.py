"""Tiny autoencoders (madebyollin/taesd): small and fast, in the latent spaces of large ones."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathline.codecs.diffusers_folder import find_file, identify, load_codec, read_config
from pathline.codecs.kl import read_constants
from pathline.codecs.pretrained import Description, pretrained_codec, unless_default
from pathline.dtypes import Dtype
from pathline.types import Codec, Facts
from pathline.weights import load_weights, read_tensors

PAIR = ("taef2_encoder.pth", "taef2_decoder.pth")  # as on GitHub
SINGLE = "taef2.safetensors"  # as on the hub


def taesd(facts: Facts, *, path: str = "madebyollin/taesd", dtype: Dtype = "fp32") -> Codec:
    """The tiny family of diffusers (AutoencoderTiny): TAESD, TAESDXL, TAESD3, TAEF1, TAESANA.

    path: a folder or hub name. Raw latents are already those of the large codec, scaled.
    """
    config, files = read_config(path, "taesd")
    description = Description(
        identify("taesd", path, files, **unless_default(dtype=(dtype, "fp32"))),
        config.get("latent_channels", 4),
        2 ** (len(config.get("encoder_block_out_channels", range(4))) - 1),
        *read_constants(config, None, None, default=1.0),
    )
    load = partial(load_codec, "AutoencoderTiny", path)
    functions = {"encode": _tiny_encode, "decode": _tiny_decode}
    return pretrained_codec(facts, description, load, **functions, dtype=dtype)


def _tiny_encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latents


def _tiny_decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample


def taef2(facts: Facts, *, path: str = "madebyollin/taef2", dtype: Dtype = "fp32") -> Codec:
    """TAEF2, 2.7 M parameters, in the latent space of FLUX.2: 32 channels, 8 pixels a side.

    path: a folder with taef2_encoder.pth and taef2_decoder.pth or with taef2.safetensors, or a hub
    name. Raw latents are FLUX.2's before its patches and batch norm: mean about 0, std about 0.8.
    """
    files = _find_files(path)
    id = identify("taef2", path, files, **unless_default(dtype=(dtype, "fp32")))
    description = Description(id, 32, 8, is_unit=True)
    load = partial(_load, path)
    functions = {"encode": Tiny.encode, "decode": Tiny.decode}
    return pretrained_codec(facts, description, load, **functions, dtype=dtype)


def _find_files(path: str) -> list[Path]:
    """The encoder's and decoder's files where a folder has one of them, else the one file."""
    folder = Path(path).expanduser()
    pair = [folder / name for name in PAIR]
    if any(file.is_file() for file in pair):
        return pair
    return [folder / SINGLE] if folder.is_dir() else [find_file(path, SINGLE)]


class Block(nn.Module):
    """Three convolutions; at the lowest resolution a wide branch with a group norm before them."""

    def __init__(self, width: int = 64, *, wide: bool = False) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.pool = _branch(width, 4 * width) if wide else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def _branch(width: int, inner: int) -> nn.Sequential:
    into, out = (nn.Conv2d(*sizes, 1, bias=False) for sizes in ((width, inner), (inner, width)))
    return nn.Sequential(into, nn.GroupNorm(4, inner), nn.ReLU(), out)


class Bound(nn.Module):
    """Latents, softly clipped to [-3, 3]."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


class Tiny(nn.Module):
    """TAEF2's two stacks of convolutions, in the names of its published weights."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 64), Block()]
        for wide in (False, False, True):
            layers += [_conv(64, 64, stride=2, bias=False), *(Block(wide=wide) for _ in range(3))]
        self.encoder = nn.Sequential(*layers, _conv(64, channels))
        layers = [Bound(), _conv(channels, 64), nn.ReLU()]
        for wide in (True, False, False):
            layers += [*(Block(wide=wide) for _ in range(3)), nn.Upsample(scale_factor=2)]
            layers += [_conv(64, 64, bias=False)]
        self.decoder = nn.Sequential(*layers, Block(), _conv(64, 3))

    def encode(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1] to latents, an eighth a side."""
        return self.encoder(x).contiguous()

    def decode(self, raw: Tensor) -> Tensor:
        """Latents to pixels in about [0, 1]."""
        return self.decoder(raw.to(next(self.parameters()).dtype)).contiguous()


def _conv(inner: int, outer: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=bias)


def _load(path: str) -> nn.Module:
    files = _find_files(path)
    # Published as encoder and decoder apart, or as one file under other names.
    if len(files) > 1:
        state = _join(*(find_file(path, file.name) for file in files))
    elif not files[0].is_file():
        raise FileNotFoundError(
            f"codec.path={path} is wrong because the folder has neither {' and '.join(PAIR)} nor "
            f"{SINGLE}. Download one of them into it."
        )
    else:
        state = _rename(files[0])
    with torch.random.fork_rng(devices=[]):
        network = Tiny()
    load_weights(network, {name: value.float() for name, value in state.items()}, path)
    last = torch.channels_last  # a third quicker on a CPU
    return network.to(memory_format=last)  # pyright: ignore[reportCallIssue] - torch's stub lacks it


def _join(*files: Path) -> dict[str, Tensor]:
    """Encoder's and decoder's weights in one dictionary."""
    return {
        f"{side}.{name}": value
        for side, file in zip(("encoder", "decoder"), files, strict=True)
        for name, value in read_tensors(file).items()
    }


def _rename(file: Path) -> dict[str, Tensor]:
    """The hub's names count layers as diffusers does: the decoder's first has no number."""
    state = {}
    for name, value in read_tensors(file).items():
        side, _, number, rest = name.split(".", 3)
        state[f"{side}.{int(number) + (side == 'decoder')}.{rest}"] = value
    return state
