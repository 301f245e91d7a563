"""Features of reference pictures, kept between commands for extractors that take long."""

import hashlib
import os
from pathlib import Path

from torch import Tensor

from pathline.metrics.features import Feature
from pathline.metrics.reference import digest, load, reference, save

LONG = ("inception", "dinov2", "clip")  # pca and the classifier are made from the reference anew
FEW = 2  # pictures whose vectors tell one set of weights from another


def cache() -> Path:
    """Where they are kept: under XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pathline" / "references"


def embedded(feature: Feature, pixels: Tensor, folder: Path | None) -> Tensor:
    """The features of these pictures; from `folder`, where the same extractor left them there.

    Same means: same name (with its resizing), same pictures, and the same vectors for the first of
    them, so that other weights under the same name are noticed. folder None: computed anew.
    """
    if folder is None or len(pixels) <= FEW:
        return feature.embed(pixels)
    marks = hashlib.sha256(feature.embed(pixels[:FEW]).numpy().tobytes()).hexdigest()
    found = digest([feature.name, marks], pixels)
    file = folder / f"{found[:32]}.safetensors"
    if not file.is_file():
        save(reference(feature.embed(pixels), feature=feature.name, digest=found), file)
    return load(file, feature=feature.name, digest=found).features
