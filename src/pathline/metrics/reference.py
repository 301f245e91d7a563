"""Features of reference pictures kept in a file that says of which pictures and by what.

For extractors with weights of their own. Those made from the reference pictures (pca, classifier)
are another extractor under the same name when their settings change; make them anew.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pathline.metrics.frechet import Statistics, statistics

FORMAT = "pathline-reference-1"


class Reference(NamedTuple):
    """What is known of a reference set by one extractor."""

    feature: str  # the extractor's name, with resizing
    digest: str  # of the pictures
    features: Float[Tensor, "n d"]
    statistics: Statistics


def digest(keys: Sequence[str], pixels: UInt8[Tensor, "n c h w"] | None = None) -> str:
    """A digest of a list of pictures by their stable names in order, and by their pixels if given.

    With pixels it also notices another size, another crop and a file written anew.
    """
    found = hashlib.sha256(json.dumps(list(keys)).encode())
    if pixels is not None:
        found.update(str(tuple(pixels.shape)).encode())
        found.update(pixels.cpu().numpy().tobytes())
    return found.hexdigest()


def reference(features: Float[Tensor, "n d"], *, feature: str, digest: str) -> Reference:
    """A reference set from its features."""
    return Reference(feature, digest, features, statistics(features))


def save(kept: Reference, file: Path) -> None:
    """Write it, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "features": kept.features.float().cpu().contiguous(),
        "mean": kept.statistics.mean.cpu(),
        "cov": kept.statistics.cov.cpu().contiguous(),
    }
    about = {
        "format": FORMAT,
        "feature": kept.feature,
        "digest": kept.digest,
        "n": str(kept.statistics.n),
    }
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    save_file(tensors, part, metadata=about)
    part.replace(file)


def load(file: Path, *, feature: str, digest: str) -> Reference:
    """Read it back; ValueError if it was made by another extractor or of other pictures."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no reference statistics at {file}")
    try:
        with safe_open(file, "pt") as tensors:
            about = tensors.metadata() or {}
            _refuse_other(file, about, feature, digest)
            features, mean, cov = map(tensors.get_tensor, ("features", "mean", "cov"))
    except SafetensorError as error:
        raise ValueError(
            f"{file} can't be read ({error}); delete it to have it made anew"
        ) from error
    return Reference(feature, digest, features, Statistics(mean, cov, int(about["n"])))


def _refuse_other(file: Path, about: Mapping[str, str], feature: str, digest: str) -> None:
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{file} is no file of reference statistics (format {about.get('format')!r}, "
            f"wanted {FORMAT!r}); delete it to have it made anew"
        )
    if about["feature"] != feature:
        raise ValueError(
            f"{file} holds statistics by {about['feature']}, but {feature} is asked for; "
            "extractor and resizing must be the same, so use another file"
        )
    if about["digest"] != digest:
        raise ValueError(
            f"{file} holds statistics of another list of pictures ({about['n']} of them, "
            f"digest {about['digest'][:12]}, wanted {digest[:12]}); delete it to have it made anew"
        )
