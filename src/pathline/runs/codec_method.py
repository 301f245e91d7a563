"""Training a codec as a method: images, autoencoder, and the discriminator as a second player."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

from pathline.codecs.autoencoder import Autoencoder, Critic
from pathline.codecs.losses import (
    COMPARISONS,
    Comparison,
    Turn,
    balance,
    compared,
    draw_turn,
    hinge,
    noised,
    scaled,
    turned,
)
from pathline.codecs.own import NETWORKS, SETTINGS
from pathline.codecs.perceptual import perceptual, vgg
from pathline.codecs.pixel import encode
from pathline.codecs.vqvae import Codebook
from pathline.config.codec_run import AUTO, PLACES, CodecRun, picks_of, problems
from pathline.config.codec_run import Loss as Weights
from pathline.config.ground import Root
from pathline.config.pick import bind
from pathline.config.presets.codecs import CODEC_PRESETS
from pathline.config.resolve import read_as
from pathline.data.decoded import Pictures
from pathline.runs.dataset import Dataset, LoadedData, split
from pathline.runs.folder import Kind, Layers
from pathline.runs.from_pictures import load_pictures, open_source, pixels_of
from pathline.tables import TABLES
from pathline.training.ema import exponential
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Loss, lane_rng
from pathline.training.team import Placement, Team, build_player, freeze
from pathline.types import Batch, Cond, Facts

REVIVAL = 1  # the lane whose generator revives codes; a batch has lane 0
TABLE: dict[str, Any] = {**TABLES, "network": NETWORKS}
ROOT = Root(
    CodecRun,
    CODEC_PRESETS,
    problems,
    picks_of,
    PLACES,
    AUTO,
    f"A codec's run folder has every setting in {SETTINGS}.",
)
KIND = Kind(SETTINGS, ROOT, "pathline codec train")


def read_settings(layers: Layers, *_: Any) -> CodecRun:
    """The settings of a codec's training. Raises ValueError for everything that is wrong."""
    return read_as(ROOT, *layers[:4], base=layers.base, tables=TABLE).run


def load_data(run: CodecRun, report: Path | None, console: Console) -> LoadedData:
    """The images of a codec's training; `report` lists unreadable ones."""
    run, source = open_source(run)
    pictures = load_pictures(run.data, source, report, console)
    _, channels, height, width = pictures.pixels.shape
    return LoadedData(run, Facts(channels, height, width), partial(_dataset, run, pictures))


def build_parts(loaded: LoadedData, *_: Any) -> tuple[Autoencoder, Dataset]:
    """The untrained autoencoder, a function of the seed, and the dataset."""
    run = loaded.run
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = bind(NETWORKS, run.network, PLACES["network"])(run.data.channels)
    return network, loaded.dataset_for(network)


def build_players(run: CodecRun, network: Autoencoder, placement: Placement) -> Team:
    """The autoencoder and, with critic.weight > 0, its discriminator."""
    # Both players share optimizer settings, schedule and clip.
    optimizer = bind(TABLES["optimizer"], run.optimizer, PLACES["optimizer"])
    schedule = bind(TABLES["schedule"], run.schedule, PLACES["schedule"])
    shared = {
        "optimizer": optimizer,
        "rate": partial(schedule, updates=run.train.updates),
        "clip": run.train.clip,
    }
    frozen, comparisons = _comparisons(run.loss, placement)
    critic = _critic(run) if run.critic.weight else None
    loss = codec_loss(run, comparisons, critic)
    emas = [partial(exponential, decay=run.train.ema)]
    players = [build_player("network", network, loss, placement, emas=emas, **shared)]
    # The critic is a second player that begins later.
    if critic:
        begin = run.critic.begin
        loss = critic_loss(network)
        players.append(build_player("critic", critic, loss, placement, begin=begin, **shared))
    return Team(players, frozen, hooks=[codebook_hook(run, network, placement.device)])


def describe(run: CodecRun, network: Autoencoder) -> str:
    """One phrase: the size of images and of their latents."""
    size, side = run.data.size, run.data.size // network.factor
    return f"{size}x{size} to {network.channels}x{side}x{side}"


def codec_loss(
    run: CodecRun,
    comparisons: Mapping[str, tuple[float, Comparison]],
    critic: nn.Module | None = None,
) -> Loss:
    """Loss of the autoencoder; from update critic.begin on with the discriminator's score.

    The discriminator scores batches as they are, never scaled or rotated ones. Its gradient is
    scaled to the size of the others' at the last layer (`balance`).
    """
    weights, begin = run.loss, run.critic.begin / run.train.updates

    def loss(
        network: Autoencoder, batch: Batch, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # Latents and images get the same turn: codes become equivariant (EQ-VAE, arXiv 2502.09509).
        turn, factor = draw_turn(rng, weights.equivariance), network.factor
        height, width = scaled(batch.x1.shape[2] // factor, batch.x1.shape[3] // factor, turn)

        def between(z: Tensor) -> Tensor:
            z = noised(z, rng, weights.noise) if weights.noise else z
            return turned(z, turn, (height, width))

        # Reconstruct from changed latents, and compare with images changed in the same way.
        y, coded = network(batch.x1, rng, between)
        x = turned(batch.x1, turn, (height * factor, width * factor))
        total, terms = compared(x, y.float(), comparisons)
        terms |= coded.terms
        # batch.done = update / updates, the same division as `begin`, so the test is exact.
        if critic is not None and batch.done >= begin:
            score = _critique(critic, y) if turn == Turn() else total.new_zeros(())
            terms["critique"] = score.detach()
            # Without gradients, as in a rehearsal, there is nothing to balance.
            if score.requires_grad:
                weight = run.critic.weight * balance(total, score, network.last)
                total = total + weight * score
        return total + coded.cost, terms

    return loss


def critic_loss(network: Autoencoder) -> Loss:
    """Hinge loss of the discriminator: images against what the autoencoder makes of them now."""

    def loss(
        critic: nn.Module, batch: Batch, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # Images as the autoencoder makes them now, without gradients: only the critic learns here.
        with torch.no_grad():
            y, _ = network(batch.x1, rng)
        real, rebuilt = critic(batch.x1).float(), critic(y).float()
        return hinge(real, rebuilt), {
            "real": real.mean().detach(),
            "rebuilt": rebuilt.mean().detach(),
        }

    return loss


def codebook_hook(run: CodecRun, network: Autoencoder, device: torch.device) -> Hook:
    """Moves the codes of a codebook after each update whose gradient was finite."""

    def move_codes(progress: Progress, reports: Reports) -> None:
        codebook = network.bottleneck
        if isinstance(codebook, Codebook) and reports["network"].taken:
            codebook.learn(lane_rng(run.seed, progress.update, REVIVAL, device))

    return move_codes


def _dataset(run: CodecRun, pictures: Pictures, _: Autoencoder) -> Dataset:
    train, held = split(run, len(pictures.pixels))
    return Dataset(
        keys=pictures.keys,
        names=(),
        labels=None,
        captions=None,
        train=train,
        held=held,
        x1=lambda rows, flips, device: encode(pixels_of(pictures, rows, flips, device)),
        cond=lambda *_: Cond(),
        null=Cond(),
        pixels=lambda rows: pictures.pixels[rows],
    )


def _critic(run: CodecRun) -> Critic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return Critic(run.data.channels, width=run.critic.width, layers=run.critic.layers)


def _critique(critic: nn.Module, y: Tensor) -> Tensor:
    """The negative mean score of images; the discriminator's weights get no gradient of it."""
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    return -functional_call(critic, frozen, (y,)).float().mean()


def _comparisons(
    weights: Weights, placement: Placement
) -> tuple[dict[str, nn.Module], dict[str, tuple[float, Comparison]]]:
    """The frozen networks of the loss, and its comparisons with their weights."""
    comparisons = {
        name: (getattr(weights, name), compare)
        for name, compare in COMPARISONS.items()
        if getattr(weights, name)
    }
    if not (weights.perceptual and weights.vgg):
        return {}, comparisons
    features = vgg(weights.vgg)
    freeze(features, placement)
    comparisons["perceptual"] = weights.perceptual, partial(perceptual, features)
    return {"vgg": features}, comparisons
