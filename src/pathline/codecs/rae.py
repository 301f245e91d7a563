"""Representation autoencoders: the latent is a frozen encoder's (DINOv2, SigLIP 2, MAE) tokens."""

from functools import partial
from typing import Any

from torch import Tensor

from pathline.codecs.diffusers_folder import identify, load_codec, read_config
from pathline.codecs.pretrained import Description, pretrained_codec, unless_default
from pathline.dtypes import Dtype
from pathline.types import Codec, Facts


def rae(
    facts: Facts,
    *,
    path: str = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08",
    dtype: Dtype = "fp32",
) -> Codec:
    """RAE of diffusers (AutoencoderRAE): squares of one size; normalised inside, by position.

    path: a folder or hub name. The network behind must be as wide as its channels (768).
    """
    config, files = read_config(path, "rae")
    if not config.get("reshape_to_2d", True):
        raise ValueError(
            f"{files[0]}: reshape_to_2d=false is wrong because its latents have no grid. "
            "Take a RAE with reshape_to_2d=true."
        )
    # The frozen encoder has one grid, and so its codec takes pictures of one size.
    patch = config.get("patch_size", 16)
    grid = config.get("encoder_input_size", 224) // config.get("encoder_patch_size", 14)
    description = Description(
        identify("rae", path, files, **unless_default(dtype=(dtype, "fp32"))),
        config.get("encoder_hidden_size", 768),
        patch,
        side=patch * grid,
        is_unit=True,
    )
    load = partial(load_codec, "AutoencoderRAE", path)
    return pretrained_codec(facts, description, load, encode=_encode, decode=_decode, dtype=dtype)


def _encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latent


def _decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample
