"""Deep-compression autoencoders: 32, 64 or 128 pixels a side in one latent position."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from pathline.codecs.kl import constants_of
from pathline.codecs.pretrained import Known, frozen
from pathline.codecs.weights import WEIGHTS, config_of, id_of, pretrained
from pathline.dtypes import Dtype
from pathline.types import Codec, Facts


def dcae(
    facts: Facts,
    *,
    path: str = "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers",
    dtype: Dtype = "fp32",
    scale: float | None = None,
    tiles: bool = False,
) -> Codec:
    """DC-AE of diffusers (AutoencoderDC: f32c32, f64c128, f128c512); deterministic.

    path: a folder or hub name. scale: x1 = raw·scale, where config.json does not say.
    tiles: large pictures piecewise. In fp16 its decoder overflows on some pictures, which is told.
    """
    config, folder = config_of(path, "dcae")
    mean, std = constants_of(config, scale, None)
    own = {"dtype": None if dtype == "fp32" else dtype, "tiles": True if tiles else None}
    known = Known(
        id_of("dcae", path, [folder / "config.json", folder / WEIGHTS], **own),
        config.get("latent_channels", 32),
        2 ** (len(config.get("encoder_block_out_channels", range(6))) - 1),
        mean,
        std,
    )
    return frozen(facts, known, partial(_load, path, tiles), _encode, _decode, dtype)


def _load(path: str, tiles: bool) -> nn.Module:
    network: Any = pretrained("AutoencoderDC", path)
    if tiles:
        network.enable_tiling()
    return network


def _encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latent


def _decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample
