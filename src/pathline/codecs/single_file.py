"""A KL-VAE in one .safetensors file, in the names of diffusers or of latent diffusion (LDM)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pathline.codecs.weights import diffusers, fill

PREFIXES = ("first_stage_model.", "vae.")  # of a codec inside a whole model's file


def read_config(file: Path) -> dict[str, Any]:
    """The settings of AutoencoderKL: of config.json beside the file, or read off its shapes.

    What shapes can't tell, the scale, is left out.
    """
    beside = file.parent / "config.json"
    if beside.is_file():
        config = json.loads(beside.read_text(encoding="utf-8"))
        if config.get("_class_name") == "AutoencoderKL":
            return config
    shapes, _ = _shapes(file)
    is_ldm = "encoder.mid.block_1.norm1.weight" in shapes
    level = r"encoder\.down\.(\d+)\.block\.(\d+)" if is_ldm else None
    level = level or r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)"
    found = {}
    for name, shape in shapes.items():
        if match := re.fullmatch(level + r"\.conv2\.weight", name):
            found[int(match[1]), int(match[2])] = shape[0]
    if not found or "decoder.conv_in.weight" not in shapes:
        raise ValueError(f"{file} holds no KL-VAE: its names are those of another model.")
    levels = 1 + max(level for level, _ in found)
    attends = "encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"
    return {
        "_class_name": "AutoencoderKL",
        "single": True,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [found[level, 0] for level in range(levels)],
        "layers_per_block": 1 + max(block for _, block in found),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": any(name in shapes for name in attends),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def read_weights(file: Path, config: Mapping[str, Any]) -> nn.Module:
    """AutoencoderKL in float32, every weight read and used."""
    package, (shapes, prefix) = diffusers(), _shapes(file)
    with safe_open(file, "pt") as held:
        state = {name: held.get_tensor(prefix + name).float() for name in shapes}
    if "encoder.mid.block_1.norm1.weight" in state:
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        state = convert_ldm_vae_checkpoint(state, config)
    with torch.random.fork_rng(devices=[]):
        network = package.AutoencoderKL.from_config(
            {key: value for key, value in config.items() if key != "single"}
        )
    return fill(network, state, file)


def _shapes(file: Path) -> tuple[dict[str, list[int]], str]:
    """(name -> shape of the codec's weights, the prefix their names have in the file)."""
    try:
        with safe_open(file, "pt") as held:
            shapes = {name: held.get_slice(name).get_shape() for name in held.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is no .safetensors file: {error}") from error
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in shapes)), "")
    return {n[len(prefix) :]: shape for n, shape in shapes.items() if n.startswith(prefix)}, prefix
