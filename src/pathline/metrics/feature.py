"""What an extractor is, and what every one needs: three channels, one size, batches."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

Embed = Callable[[UInt8[Tensor, "n c h w"]], Float[Tensor, "n d"]]
Resize = Literal["bilinear", "clean"]


class Feature(NamedTuple):
    """An extractor ready to use. logits: class scores, where it has classes."""

    name: str  # with how images are resized, where they are
    width: int
    embed: Embed  # to float32 on the CPU
    note: str = ""
    logits: Embed | None = None


class Extractor(NamedTuple):
    """A row of FEATURES: what builds the feature, and which scores it is for."""

    build: Callable[..., Feature]  # (reference images, labels or None, device)
    frechet_name: str  # of its Fréchet distance in results
    is_pretrained: bool = False  # has weights of its own: reference features are kept on disk
    has_reference_classes: bool = False  # its logits are of the reference's classes: accuracy
    has_cmmd: bool = False
    score_captions: Callable[..., Any] | None = None  # (images, captions, device) -> ClipScore


def in_batches(
    pixels: UInt8[Tensor, "n c h w"], batch: int, run: Callable[[Tensor], Tensor]
) -> Float[Tensor, "n d"]:
    """`run` on some pictures at a time; its rows come back as float32 on the CPU."""
    if not len(pixels):
        raise ValueError("There are no images to compute features of. Give one or more.")
    with torch.no_grad():
        return torch.cat([run(part).float().cpu() for part in pixels.split(batch)])


def resized(
    pixels: UInt8[Tensor, "n c h w"], size: int, mode: Resize
) -> Float[Tensor, "n 3 size size"]:
    """Grey or colour pictures as squares of three channels in 0 … 255; sides are not kept in ratio.

    bilinear: no antialiasing, align_corners=False (pytorch-fid). clean: Pillow's bicubic on each
    channel in float32, clipped, not rounded (clean-fid). Scores of the two can't be compared.
    """
    if pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"Images of {pixels.shape[1]} channels are wrong; give 1 (grey) or 3 (colour)."
        )
    if mode == "bilinear":
        square = interpolate(pixels.float(), (size, size), mode="bilinear", align_corners=False)
    else:
        square = _clean(pixels, size)
    return square.expand(-1, 3, -1, -1)


def _clean(pixels: UInt8[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c size size"]:
    planes = pixels.cpu().numpy().astype(np.float32).reshape(-1, *pixels.shape[2:])
    done = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC))
        for plane in planes
    ]
    squares = torch.from_numpy(np.stack(done)).clamp_(0, 255).to(pixels.device)
    return squares.view(*pixels.shape[:2], size, size)


def shrunk(pixels: UInt8[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c i j"]:
    """Pictures in [-1, 1], sides above `side` averaged down to it."""
    height, width = pixels.shape[2:]
    small = (min(side, height), min(side, width))
    return adaptive_avg_pool2d(pixels.float(), small) / 127.5 - 1


def shrinking(pixels: UInt8[Tensor, "n c h w"], side: int) -> str:
    """What `shrunk` does to such pictures, as the end of an extractor's name."""
    height, width = pixels.shape[2:]
    return f"-area{min(side, height)}x{min(side, width)}" if max(height, width) > side else ""
