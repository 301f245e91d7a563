"""Check a cache: decode some of its pictures next to what they were made from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor
from torch.nn.functional import pad

from pathline.codecs.losses import psnr
from pathline.data.cache.reader import Cache, read, refuse_other
from pathline.data.cache.rows import PlacedPicture, read_picture
from pathline.images import save_sheet, sheet
from pathline.runs.cache_inputs import CacheInputs
from pathline.training.device import pick_device
from pathline.types import Codec

PICTURE = "check.png"


def check_cache(
    folder: Path,
    inputs: CacheInputs,
    pictures: Sequence[PlacedPicture],
    count: int,
    console: Console,
) -> list[float]:
    """Decode `count` pictures spread over the cache; write check.png, print and return their PSNR.

    pictures: of the source. Raises ValueError where another codec made the cache.
    """
    codec, device = inputs.codec, pick_device(inputs.run.device)
    cache = read(folder)
    refuse_other(cache, codec.id, "")
    rows = {key: row for row, key in enumerate(cache.keys)}
    cached = [placed for placed in pictures if placed.picture.key in rows]
    count = min(count, len(cached))
    # Originals next to what is decoded from the cache, spread evenly over it.
    pairs, titles, values = [], [], []
    for placed in (cached[n * len(cached) // count] for n in range(count)):
        key = placed.picture.key
        original = read_picture(inputs.source, placed, inputs.run.data.channels)
        decoded = _decode(cache, codec, rows[key], device)
        values.append(psnr(original[None], decoded[None]).item())
        pairs += [original, decoded]
        titles += [key, f"{values[-1]:.1f} dB"]
        console.print(f"{key}  {values[-1]:.1f} dB")
    save_sheet(sheet(_pad_to_one_size(pairs), titles, columns=4), folder / PICTURE)
    average = f"PSNR {sum(values) / len(values):.1f} dB over {len(values)} pictures"
    console.print(f"{average}: {folder / PICTURE}")
    return values


def _decode(cache: Cache, codec: Codec, row: int, device: torch.device) -> UInt8[Tensor, "c h w"]:
    if codec.to:
        codec.to(device)
    with torch.inference_mode():
        return codec.decode(cache.latents(torch.tensor([row]), None).to(device))[0].cpu()


def _pad_to_one_size(pictures: Sequence[Tensor]) -> UInt8[Tensor, "n c h w"]:
    """Pictures on white ground of one size."""
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    return torch.stack(
        [pad(p, (0, width - p.shape[2], 0, height - p.shape[1]), value=255) for p in pictures]
    )
