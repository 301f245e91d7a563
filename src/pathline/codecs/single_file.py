"""A KL-VAE in one .safetensors file, in the names of diffusers or of latent diffusion (LDM)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pathline import hub
from pathline.weights import load_weights

PREFIXES = ("first_stage_model.", "vae.")  # of a codec inside a whole model's file


def infer_config(file: Path) -> dict[str, Any]:
    """The settings of AutoencoderKL: from config.json next to the file, or from its shapes.

    Shapes do not determine the scale; it is left out.
    """
    config_file = file.parent / "config.json"
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.get("_class_name") == "AutoencoderKL":
            return config
    # the names of the residual blocks give levels, blocks a level and widths
    shapes, _ = _read_shapes(file)
    is_ldm = "encoder.mid.block_1.norm1.weight" in shapes
    level = r"encoder\.down\.(\d+)\.block\.(\d+)" if is_ldm else None
    level = level or r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)"
    widths: dict[tuple[int, int], int] = {}
    for name, shape in shapes.items():
        if match := re.fullmatch(level + r"\.conv2\.weight", name):
            widths[int(match[1]), int(match[2])] = shape[0]
    if not widths or "decoder.conv_in.weight" not in shapes:
        raise ValueError(f"{file} has no KL-VAE: its names are those of another model.")
    levels = 1 + max(level for level, _ in widths)
    attends = "encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"
    return {
        "_class_name": "AutoencoderKL",
        "single": True,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [widths[level, 0] for level in range(levels)],
        "layers_per_block": 1 + max(block for _, block in widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": any(name in shapes for name in attends),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def read_weights(file: Path, config: Mapping[str, Any]) -> nn.Module:
    """AutoencoderKL in float32, every weight read and used."""
    diffusers = hub.import_library(hub.CODEC)
    shapes, prefix = _read_shapes(file)
    with safe_open(file, "pt") as tensors:
        state = {name: tensors.get_tensor(prefix + name).float() for name in shapes}
    # Names of the original repository are translated by diffusers' own table.
    if "encoder.mid.block_1.norm1.weight" in state:
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        state = convert_ldm_vae_checkpoint(state, config)
    with torch.random.fork_rng(devices=[]):
        network = diffusers.AutoencoderKL.from_config(
            {key: value for key, value in config.items() if key != "single"}
        )
    return load_weights(network, state, file)


def _read_shapes(file: Path) -> tuple[dict[str, list[int]], str]:
    """(name -> shape of the codec's weights, the prefix their names have in the file)."""
    try:
        with safe_open(file, "pt") as tensors:
            names = tensors.keys()
            shapes = {name: tensors.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise ValueError(f"{file} is no .safetensors file: {error}") from error
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in shapes)), "")
    return {n[len(prefix) :]: shape for n, shape in shapes.items() if n.startswith(prefix)}, prefix
