"""Measure a codec in training and at its end: PSNR, codes used, grids, statistics of latents."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.codecs.autoencoder import Autoencoder
from pathline.codecs.losses import perplexity, psnr
from pathline.codecs.own import NETWORKS, moments, store
from pathline.codecs.pixel import decode, encode
from pathline.config.codec_run import CodecRun
from pathline.config.pick import Pick, options_of
from pathline.config.values import convert
from pathline.images import sheet
from pathline.runs.dataset import Dataset, TrainingContext
from pathline.runs.sample_hook import write_page
from pathline.training.ema import Ema
from pathline.training.hooks import Show, every
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Player
from pathline.training.trackers.jsonl import Tracker

MAX_IMAGES, SHOWN, ROW = 512, 16, 8  # held-out images measured; shown; in a row
FAINT = 0.1  # a channel below this share of the largest standard deviation is warned of


class CodecTrial(NamedTuple):
    """A codec with its averaged weights, and the images it is tried on."""

    run: CodecRun
    network: Autoencoder
    ema: Ema
    data: Dataset

    @property
    def held(self) -> Tensor:
        """Held-out rows; those of training if none are held out."""
        return self.data.held if len(self.data.held) else self.data.train

    def images(self, rows: Tensor) -> Tensor:
        """uint8 [n C H W] on the network's device."""
        return self.data.pixels(rows).to(next(self.network.parameters()).device)


def codec_trial(run: CodecRun, data: Dataset, player: Player) -> CodecTrial:
    """The trial of a player that is an autoencoder."""
    network = player.network
    assert isinstance(network, Autoencoder)
    return CodecTrial(run, network, player.emas[0], data)


def codec_measurements(
    context: TrainingContext,
) -> Callable[[Tracker, Any, Show], Iterator[Hook]]:
    """Hooks that measure, and that write `rebuilt-….png`, as often as run.train says."""
    trial = codec_trial(context.run, context.data, context.team.players[0])
    folder, train = context.folder / "samples", context.run.train

    def hooks(tracker: Tracker, _: Any, show: Show) -> Iterator[Hook]:
        def measure(progress: Progress, _: Reports) -> None:
            values = measure_codec(trial)
            tracker.numbers(progress.update, progress.images, values)
            show(progress, values)

        def draw_grid(progress: Progress, _: Reports) -> None:
            write_page(grid(trial), folder, "rebuilt", progress.update, tracker, context.say)

        yield every(train.validate_every, measure, last=train.updates)
        yield every(train.sample_every, draw_grid, last=train.updates)

    return hooks


@torch.no_grad()
def measure_codec(trial: CodecTrial) -> dict[str, float]:
    """PSNR over held-out images and, with a codebook, how many codes are used how evenly."""
    network, psnrs, codes = trial.network.eval(), [], []
    # With the averaged weights, which are those that are stored.
    with trial.ema.lent_to(network):
        for rows in trial.held[:MAX_IMAGES].split(trial.run.train.batch):
            pixels = trial.images(rows)
            raw = network.latents(encode(pixels))
            psnrs.append(psnr(pixels, decode(network.rebuilt(raw))))
            if network.bottleneck.size:
                codes.append(network.bottleneck.indices(raw).flatten())
    network.train()
    values = {"val/psnr": torch.cat(psnrs).mean().item()}
    if codes:
        used = torch.cat(codes)
        values["val/perplexity"] = perplexity(used, network.bottleneck.size).item()
        values["val/codes_used"] = float(len(used.unique()))
    return values


@torch.no_grad()
def grid(trial: CodecTrial) -> Any:
    """A sheet of held-out images, each above its reconstruction."""
    pixels = trial.images(trial.held[:SHOWN])
    network = trial.network.eval()
    with trial.ema.lent_to(network):
        rebuilt = decode(network.rebuilt(network.latents(encode(pixels))))
    network.train()
    # Rows of originals above rows of reconstructions; a last row that is not full is left out.
    pairs = zip(pixels.cpu().split(ROW), rebuilt.cpu().split(ROW), strict=True)
    columns = min(ROW, len(pixels))
    full_rows = [pair for pair in pairs if len(pair[0]) == columns]
    return sheet(torch.cat([part for pair in full_rows for part in pair]), columns=columns)


@torch.no_grad()
def statistics(trial: CodecTrial) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each raw latent channel over the training images, float64.

    Of the weights that the network has at the call.
    """
    network = trial.network.eval()
    sums = [
        moments(network, encode(trial.images(rows)))
        for rows in trial.data.train.split(trial.run.train.batch)
    ]
    count, total, squares = torch.stack(sums).sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()


def store_codec(trial: CodecTrial, folder: Path, updates: int, say: Callable[[str], None]) -> None:
    """Write the averaged weights as a codec, with statistics of its latents, and print them."""
    values = measure_codec(trial)
    with trial.ema.lent_to(trial.network):
        mean, std = statistics(trial)
        store(
            folder,
            trial.network,
            name=trial.run.network.name,
            options=_all_options(trial.run.network),
            mean=mean,
            std=std,
            measured={**values, "updates": updates, "pictures": len(trial.data.train)},
        )
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    say(f"codec: {numbers}  std {' '.join(f'{s:.3g}' for s in std.tolist())}")
    # A channel that hardly varies becomes noise when it is divided by its std.
    faint = [index for index, s in enumerate(std.tolist()) if s < FAINT * std.max()]
    if faint:
        say(
            f"warning: latent channels {faint} hardly vary, and normalising turns them into "
            "noise. Use fewer network.channels or a smaller network.kl."
        )
    say(f"next: pathline train PRESET codec=trained codec.path={folder}")


def _all_options(pick: Pick) -> dict[str, Any]:
    """Every option of a network's row, so that later defaults change nothing."""
    options = options_of(NETWORKS[pick.name])
    chosen = {key: convert(value, options[key].kind) for key, value in pick.options.items()}
    return {key: chosen.get(key, option.default) for key, option in options.items()}
