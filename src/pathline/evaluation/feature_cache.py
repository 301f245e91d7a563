"""Features of reference images, cached on disk for extractors with weights of their own."""

import hashlib
import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pathline.files import digest, write_whole
from pathline.metrics.features import Feature

PROBES = 2  # images whose features identify the weights


def cache_folder() -> Path:
    """The folder of the cached features: under XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pathline" / "references"


def embed_cached(feature: Feature, pixels: Tensor, folder: Path | None) -> Tensor:
    """The features of these images [n d]; from `folder`, where the same extractor left them.

    Same means: the same name (with its resizing), the same images in order, and the same features
    of the first of them, so that other weights under the same name are noticed. None: no cache.
    """
    # The key itself embeds PROBES images: so few need no cache.
    if folder is None or len(pixels) <= PROBES:
        return feature.embed(pixels)
    file = folder / f"{_key(feature, pixels)[:32]}.safetensors"
    if not file.is_file():
        features = {"features": feature.embed(pixels).float().cpu().contiguous()}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: save_file(features, part))
    try:
        return load_file(file)["features"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{file} can't be read ({error}). Delete it to compute it again."
        ) from error


def _key(feature: Feature, pixels: Tensor) -> str:
    """A digest of the extractor, its weights and the images."""
    probe = digest(feature.embed(pixels[:PROBES]).numpy().tobytes())
    key = hashlib.sha256(json.dumps([feature.name, probe, list(pixels.shape)]).encode())
    key.update(pixels.cpu().numpy().tobytes())
    return key.hexdigest()
