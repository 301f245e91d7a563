"""A look at a cache: some of its pictures decoded, beside what they were made from."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor
from torch.nn.functional import pad

from pathline.codecs.losses import psnr
from pathline.data.cache.latents import Job, picture_of
from pathline.data.cache.reader import Cached, read, refuse_other
from pathline.data.sources.source import Source
from pathline.images import sheet
from pathline.types import Codec

PICTURE = "check.png"


def check(
    folder: Path,
    source: Source,
    jobs: Sequence[Job],
    codec: Codec,
    channels: int,
    count: int,
    device: torch.device,
    console: Console,
) -> list[float]:
    """Decode `count` pictures spread over the cache; write check.png, print and return their PSNR.

    jobs: the pictures of the source. Raises ValueError where another codec made the cache.
    """
    cached = read(folder)
    refuse_other(cached, codec.id, "")
    rows = {key: row for row, key in enumerate(cached.keys)}
    there = [job for job in jobs if job.picture.key in rows]
    count = min(count, len(there))
    pairs, titles, found = [], [], []
    for job in (there[n * len(there) // count] for n in range(count)):
        key = job.picture.key
        original = picture_of(source, job, channels)
        drawn = _decoded(cached, codec, rows[key], device)
        found.append(psnr(original[None], drawn[None]).item())
        pairs += [original, drawn]
        titles += [key, f"{found[-1]:.1f} dB"]
        console.print(f"{key}  {found[-1]:.1f} dB", highlight=False, soft_wrap=True)
    sheet(_even(pairs), titles, columns=4).save(folder / PICTURE)
    told = f"PSNR {sum(found) / len(found):.1f} dB over {len(found)} pictures: {folder / PICTURE}"
    console.print(told, highlight=False, soft_wrap=True)
    return found


def _decoded(
    cached: Cached, codec: Codec, row: int, device: torch.device
) -> UInt8[Tensor, "c h w"]:
    if codec.to:
        codec.to(device)
    with torch.inference_mode():
        return codec.decode(cached.latents(torch.tensor([row]), None).to(device))[0].cpu()


def _even(pictures: Sequence[Tensor]) -> UInt8[Tensor, "n c h w"]:
    """Pictures on white ground of one size."""
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    return torch.stack(
        [pad(p, (0, width - p.shape[2], 0, height - p.shape[1]), value=255) for p in pictures]
    )
