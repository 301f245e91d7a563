"""Who learns when a codec is trained: the autoencoder and, if wanted, its critic."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
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
from pathline.codecs.perceptual import perceptual, vgg
from pathline.codecs.vqvae import Codebook
from pathline.config.codec_run import PLACES, CodecRun
from pathline.config.codec_run import Loss as Weights
from pathline.config.pick import bind
from pathline.tables import TABLES
from pathline.training.device import Precision, lane_rng
from pathline.training.ema import Ema, exponential
from pathline.training.loop import Hook, Progress, Reports
from pathline.training.players import Loss, Player
from pathline.types import Batch

REVIVAL = 1  # the lane whose chance revives codes; a batch has lane 0


def players_of(
    run: CodecRun, network: Autoencoder, precision: Precision, device: torch.device
) -> list[Player]:
    """The autoencoder first; then its critic, where there is one."""
    network.to(device)
    weighted = _comparisons(run.loss, device)
    optimizer = bind(TABLES["optimizer"], run.optimizer, PLACES["optimizer"])
    rate = _rate(run)

    def player(name: str, module: nn.Module, loss: Loss, emas: Sequence[Ema] = ()) -> Player:
        optimizing, clip = optimizer(module), run.train.clip
        return Player(name, module, module, optimizing, loss, rate, precision, clip, emas)

    plain = codec_loss(run.loss, weighted)
    first = player("network", network, plain, [exponential(network, run.train.ema)])
    if not run.critic.weight:
        return [first]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        judge = Critic(run.data.channels, width=run.critic.width, layers=run.critic.layers)
    judge.to(device)
    return [first, player("critic", judge, critic_loss(network))]


def codec_loss(
    weights: Weights,
    weighted: Mapping[str, tuple[float, Comparison]],
    critic: nn.Module | None = None,
    critique: float = 0.0,
) -> Loss:
    """What the autoencoder learns by; with a critic, also by its scores, as heavy as the rest.

    The critic judges whole updates of pictures as they are, never scaled or turned ones.
    """

    def loss(
        network: Autoencoder, batch: Batch, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        turn, factor = draw_turn(rng, weights.equivariance), network.factor
        height, width = scaled(batch.x1.shape[2] // factor, batch.x1.shape[3] // factor, turn)

        def between(z: Tensor) -> Tensor:
            z = noised(z, rng, weights.noise) if weights.noise else z
            return turned(z, turn, (height, width))

        y, coded = network(batch.x1, rng, between)
        x = turned(batch.x1, turn, (height * factor, width * factor))
        total, terms = compared(x, y.float(), weighted)
        terms |= coded.terms
        if critic is not None:
            heard = _critique(critic, y) if turn == Turn() else total.new_zeros(())
            terms["critique"] = heard.detach()
            if heard.requires_grad:
                total = total + critique * balance(total, heard, network.last) * heard
        return total + coded.cost, terms

    return loss


def critic_loss(network: Autoencoder) -> Loss:
    """What the critic learns by: pictures and what the autoencoder makes of them now."""

    def loss(
        critic: nn.Module, batch: Batch, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            y, _ = network(batch.x1, rng)
        real, rebuilt = critic(batch.x1).float(), critic(y).float()
        return hinge(real, rebuilt), {
            "real": real.mean().detach(),
            "rebuilt": rebuilt.mean().detach(),
        }

    return loss


def listening(run: CodecRun, players: list[Player], device: torch.device) -> None:
    """From here on the autoencoder hears its critic."""
    weighted = _comparisons(run.loss, device)
    codec, critic = players
    codec.loss = codec_loss(run.loss, weighted, critic.network, run.critic.weight)


def codebook_hook(run: CodecRun, network: Autoencoder, device: torch.device) -> Hook:
    """Moves the codes after each update that was taken."""

    def move(progress: Progress, reports: Reports) -> None:
        codebook = network.bottleneck
        if isinstance(codebook, Codebook) and reports["network"].taken:
            codebook.learn(lane_rng(run.seed, progress.update, REVIVAL, device))

    return move


def _critique(critic: nn.Module, y: Tensor) -> Tensor:
    """How bad the critic finds pictures; its own weights get no gradient of it."""
    frozen = {name: p.detach() for name, p in critic.named_parameters()}
    return -functional_call(critic, frozen, (y,)).float().mean()


def _comparisons(weights: Weights, device: torch.device) -> dict[str, tuple[float, Comparison]]:
    found = {
        name: (getattr(weights, name), compare)
        for name, compare in COMPARISONS.items()
        if getattr(weights, name)
    }
    if weights.perceptual and weights.vgg:
        features = vgg(weights.vgg).to(device)
        found["perceptual"] = weights.perceptual, partial(perceptual, features)
    return found


def _rate(run: CodecRun) -> Callable[[int], float]:
    schedule = bind(TABLES["schedule"], run.schedule, PLACES["schedule"])
    return lambda update: schedule(update, run.train.updates)
