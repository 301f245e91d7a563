"""Deep-compression autoencoders: 32, 64 or 128 pixels a side in one latent position."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from pathline.codecs.diffusers_folder import identify, load_codec, read_config
from pathline.codecs.kl import read_constants
from pathline.codecs.pretrained import Description, pretrained_codec, unless_default
from pathline.dtypes import Dtype
from pathline.ranges import PositiveFloat
from pathline.types import Codec, Facts


def dcae(
    facts: Facts,
    *,
    path: str = "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers",
    dtype: Dtype = "fp32",
    scale: PositiveFloat | None = None,
    tiles: bool = False,
) -> Codec:
    """DC-AE of diffusers (AutoencoderDC: f32c32, f64c128, f128c512); deterministic.

    path: a folder or hub name. scale: x1 = raw·scale, where config.json does not have it.
    tiles: encode large images in tiles. In fp16 its decoder overflows on some images; that raises.
    """
    config, files = read_config(path, "dcae")
    settings = unless_default(dtype=(dtype, "fp32"), tiles=(tiles, False))
    description = Description(
        identify("dcae", path, files, **settings),
        config.get("latent_channels", 32),
        # Every level but the first halves the sides.
        2 ** (len(config.get("encoder_block_out_channels", range(6))) - 1),
        *read_constants(config, scale, None),
    )
    load = partial(_load, path, tiles)
    return pretrained_codec(facts, description, load, encode=_encode, decode=_decode, dtype=dtype)


def _load(path: str, tiles: bool) -> nn.Module:
    network: Any = load_codec("AutoencoderDC", path)
    if tiles:
        network.enable_tiling()
    return network


def _encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latent


def _decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample
