"""Looks at a codec while it is trained and at its end: PSNR, codes used, grids, latent moments."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.codecs.autoencoder import Autoencoder
from pathline.codecs.losses import perplexity, psnr
from pathline.codecs.own import moments
from pathline.codecs.pixel import decode, encode
from pathline.config.codec_run import CodecRun
from pathline.images import sheet
from pathline.runs.sample_hook import write_page
from pathline.training.ema import Ema
from pathline.training.hooks import Show, every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.trackers.jsonl import Tracker

MOST, SHOWN, ROW = 512, 16, 8  # held-out pictures measured; shown; beside each other
Pixels = Callable[[Tensor], Tensor]  # rows -> uint8 [n C H W] on the device


class Eye(NamedTuple):
    """What looks at a codec: its averaged weights and pictures to try them on."""

    run: CodecRun
    network: Autoencoder
    ema: Ema
    pixels: Pixels
    train: Tensor  # rows
    held: Tensor  # rows; some of train where none are held out


@torch.no_grad()
def measured(eye: Eye) -> dict[str, float]:
    """PSNR over the held-out pictures and, where there are codes, how many are used how evenly."""
    network, values, codes = eye.network.eval(), [], []
    with eye.ema.lent_to(network):
        for rows in eye.held[:MOST].split(eye.run.train.batch):
            pixels = eye.pixels(rows)
            raw = network.latents(encode(pixels))
            values.append(psnr(pixels, decode(network.rebuilt(raw))))
            if network.bottleneck.size:
                codes.append(network.bottleneck.indices(raw).flatten())
    network.train()
    found = {"val/psnr": torch.cat(values).mean().item()}
    if codes:
        hit = torch.cat(codes)
        found["val/perplexity"] = perplexity(hit, network.bottleneck.size).item()
        found["val/codes_used"] = float(len(hit.unique()))
    return found


@torch.no_grad()
def grid(eye: Eye) -> Any:
    """A sheet of held-out pictures, each above what the codec makes of it."""
    pixels = eye.pixels(eye.held[:SHOWN])
    network = eye.network.eval()
    with eye.ema.lent_to(network):
        rebuilt = decode(network.rebuilt(network.latents(encode(pixels))))
    network.train()
    pairs = zip(pixels.cpu().split(ROW), rebuilt.cpu().split(ROW), strict=True)
    columns = min(ROW, len(pixels))
    whole = [pair for pair in pairs if len(pair[0]) == columns]
    return sheet(torch.cat([part for pair in whole for part in pair]), columns=columns)


def looks(
    eye: Eye, folder: Path, tracker: Tracker, show: Show, say: Callable[[str], None]
) -> Iterator[Hook]:
    """Hooks that measure and that write `rebuilt-….png`, as often as the run wants it."""
    train = eye.run.train

    def measure(progress: Progress, _: Reports) -> None:
        values = measured(eye)
        tracker.numbers(progress.update, progress.images, values)
        show(progress, values)

    def look(progress: Progress, _: Reports) -> None:
        write_page(grid(eye), folder, "rebuilt", progress.update, tracker, say)

    yield every(train.validate_every, measure, last=train.updates)
    yield every(train.sample_every, look, last=train.updates)


@torch.no_grad()
def statistics(eye: Eye) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each raw latent channel over the training pictures, float64.

    The network wears the weights that are measured.
    """
    network = eye.network.eval()
    parts = [
        moments(network, encode(eye.pixels(rows))) for rows in eye.train.split(eye.run.train.batch)
    ]
    count, total, squares = torch.stack(parts).sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()
