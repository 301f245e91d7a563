"""Representation autoencoders: the latent is a frozen encoder's (DINOv2, SigLIP 2, MAE) tokens."""

from functools import partial
from typing import Any

from torch import Tensor

from pathline.codecs.pretrained import Known, frozen
from pathline.codecs.weights import WEIGHTS, config_of, id_of, pretrained
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
    config, folder = config_of(path, "rae")
    if not config.get("reshape_to_2d", True):
        raise ValueError(f"{folder / 'config.json'}: without reshape_to_2d there is no grid.")
    patch = config.get("patch_size", 16)
    grid = config.get("encoder_input_size", 224) // config.get("encoder_patch_size", 14)
    known = Known(
        id_of(
            "rae",
            path,
            [folder / "config.json", folder / WEIGHTS],
            dtype=None if dtype == "fp32" else dtype,
        ),
        config.get("encoder_hidden_size", 768),
        patch,
        side=patch * grid,
        unit=True,
    )
    return frozen(
        facts, known, partial(pretrained, "AutoencoderRAE", path), _encode, _decode, dtype
    )


def _encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latent


def _decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample
