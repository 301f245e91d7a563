"""Small random vision encoders of the real classes, as they lie on a disk."""

import json
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from pathline.vision.encoder import PROCESSOR

PLAIN = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
WORDS = {**PLAIN, "intermediate_size": 24, "vocab_size": 32, "bos_token_id": 2, "eos_token_id": 1}
EYES = {**PLAIN, "intermediate_size": 24, "image_size": 24, "patch_size": 8}
PACKED = {**PLAIN, "intermediate_size": 24, "num_patches": 9, "patch_size": 8}
SWIN = {"image_size": 24, "patch_size": 8, "embed_dim": 8, "depths": [1], "num_heads": [1]}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def towers(kind, eyes):
    return kind, {"text_config": WORDS, "vision_config": eyes}


MAKERS: dict[str, tuple[str, dict[str, Any]]] = {  # -> class without Model, settings
    "dinov2": ("Dinov2", EYES),
    "dinov2-registers": ("Dinov2WithRegisters", {**EYES, "num_register_tokens": 4}),
    "dinov3": ("DINOv3ViT", {**EYES, "num_register_tokens": 4}),
    "vit": ("ViT", EYES),
    "ijepa": ("IJepa", EYES),
    "mae": ("ViTMAE", EYES),
    "clip": towers("CLIP", EYES),
    "clip-vision": ("CLIPVision", EYES),
    "siglip": towers("Siglip", EYES),
    "siglip2": towers("Siglip2", PACKED),
    "swin": ("Swin", SWIN),
    "bert": ("Bert", WORDS),
}


class Checkpoint(NamedTuple):
    folder: Any
    whole: Any


@pytest.fixture(scope="session")
def eyes(tmp_path_factory):
    """Name of a maker -> a checkpoint on disk, made once."""
    transformers = pytest.importorskip("transformers")

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        kind, settings = MAKERS[name]
        before = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        config = getattr(transformers, f"{kind}Config")(**settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            whole = getattr(transformers, f"{kind}Model")(config).eval()
            for weight in whole.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        whole.save_pretrained(folder)
        (folder / PROCESSOR).write_text(
            json.dumps({"image_mean": MEAN, "image_std": STD}), encoding="utf-8"
        )
        transformers.utils.logging.set_verbosity(before)
        return Checkpoint(folder, whole)

    return made
