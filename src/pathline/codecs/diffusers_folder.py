"""Codecs as diffusers saves them: a folder with config.json and weights, or such a hub name."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pathline import hub
from pathline.files import digest_samples

WEIGHTS = "diffusion_pytorch_model.safetensors"
ROWS = {  # diffusers' class -> the row that reads it
    "AutoencoderKL": "kl",
    "AutoencoderKLFlux2": "kl",
    "AutoencoderKLQwenImage": "kl",
    "AutoencoderDC": "dcae",
    "AutoencoderTiny": "taesd",
    "AutoencoderRAE": "rae",
}


def find_file(path: str, name: str) -> Path:
    """A file of the codec at codec.path. Raises FileNotFoundError, with the way to fetch it."""
    return hub.find_file(hub.locate(path, hub.CODEC), name, hub.CODEC)


def read_config(path: str, row: str) -> tuple[dict[str, Any], list[Path]]:
    """config.json, and the files that identify the codec; ValueError if another row reads it."""
    file = find_file(path, "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if ROWS.get(str(kind)) != row:
        hint = f" Set codec={ROWS[str(kind)]}." if kind in ROWS else ""
        classes = ", ".join(name for name, reader in ROWS.items() if reader == row)
        raise ValueError(f"{file} is of a {kind}; codec={row} reads {classes}.{hint}")
    return config, [file, file.parent / WEIGHTS]


def load_codec(class_name: str, path: str) -> nn.Module:
    """A model of diffusers in float32, every weight read and used."""
    folder = find_file(path, "config.json").parent
    if not list(folder.glob("*.safetensors*")):
        find_file(path, WEIGHTS)  # downloaded into the same folder, or refused
    return hub.load_model(
        class_name,
        folder,
        hub.CODEC,
        is_exact=True,
        torch_dtype=torch.float32,
        use_safetensors=True,
        low_cpu_mem_usage=False,
    )


def identify(row: str, path: str, files: Iterable[Path], **settings: Any) -> str:
    """The id of a codec: row, hub name and commit or the weights' digest, and changed settings.

    settings: those that are None are left out. Where a folder is and what it is called change no
    latent and are left out too.
    """
    files = list(files)
    location = files[0] if Path(path).expanduser().exists() else hub.locate(path, hub.CODEC)
    if isinstance(location, hub.Repository):
        version = f":{location.title}@{hub.commit_of(files[0])}"
    else:
        version = f"@{digest_samples(files)}"
    return ",".join(
        [row + version, *(f"{key}={value}" for key, value in settings.items() if value is not None)]
    )
