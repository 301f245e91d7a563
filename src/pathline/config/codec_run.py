"""What the training of a codec is: every setting with its default, range and meaning."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pathline.config.pick import Pick, pick
from pathline.config.sections import About, Images, Training, check_record, picks_at, unreached
from pathline.config.values import Problem
from pathline.dtypes import Dtype
from pathline.ranges import (
    NotNegative,
    NotNegativeFloat,
    Positive,
    Range,
    Seed,
    Share,
    ShareBelowOne,
    Width,
)

# Where a Pick stands -> what a row of its table is called in messages.
PLACES = {
    "data.source": "data source",
    "network": "codec network",
    "optimizer": "optimizer",
    "schedule": "schedule",
}
AUTO = {"data.source": ("path",)}


@dataclass(frozen=True)
class CodecImages(Images):
    """Which images the codec is trained on."""

    source: Pick = field(default_factory=lambda: Pick("shapes"))
    holdout: ShareBelowOne = 0.05


@dataclass(frozen=True)
class Loss:
    """Weights of what compares images, and what is done to latents before decoding."""

    l1: NotNegativeFloat = 1.0  # weight of the mean absolute error
    mse: NotNegativeFloat = 1.0  # weight of the mean squared error
    edges: NotNegativeFloat = 0.0  # weight of L1 between image gradients
    perceptual: NotNegativeFloat = 0.0  # weight of the distance between VGG-16 features
    vgg: str | None = None  # VGG-16's weights: torchvision's vgg16, .pth or .safetensors
    noise: NotNegativeFloat = 0.0  # scale of the noise mixed into latents; 3 in l-DeTok
    equivariance: Share = 0.0  # share of updates on scaled and rotated latents


@dataclass(frozen=True)
class Critic:
    """A discriminator: a second network that tells real images from decoded ones."""

    weight: NotNegativeFloat = 0.0  # of its loss; 0: no discriminator
    begin: NotNegative = 2000  # update from which it is trained and used
    width: Width = 32  # channels of its first layer
    layers: Annotated[int, Range(1, 12)] = 2  # each halves the image


@dataclass(frozen=True)
class CodecTraining(Training):
    """How long, how many at once, and what is written how often."""

    updates: Positive = 5000
    batch: Positive = 32
    precision: Literal["auto", Dtype] = "fp32"
    validate_every: NotNegative = 500
    sample_every: NotNegative = 500
    save_every: Positive = 500
    ema: ShareBelowOne = 0.99  # decay of the weights that become the codec

    # Constants, not settings: a codec is trained in one process, one pass per update, uncompiled.
    strategy: ClassVar[str] = "none"
    accumulate: ClassVar[int] = 1
    compile: ClassVar[bool] = False
    probe_every: ClassVar[int] = 0
    snapshot_every: ClassVar[int] = 0


@dataclass(frozen=True)
class CodecRun:
    """One training of a codec: data × network × losses × optimizer, by name."""

    name: str = "codec"  # of the run's folder
    about: About = field(default_factory=About)
    seed: Seed = 0  # of initial weights, noise and order
    device: str = "auto"  # where it runs: auto, cpu, cuda, cuda:1, mps
    data: CodecImages = CodecImages()
    # The autoencoder.
    network: Pick = field(default_factory=lambda: Pick("kl_small"))
    loss: Loss = Loss()
    critic: Critic = Critic()
    # The optimizer, with its learning rate.
    optimizer: Pick = field(default_factory=lambda: pick("adamw", lr=1e-3, beta2=0.95))
    # Learning rate over the training.
    schedule: Pick = field(default_factory=lambda: pick("cosine", warmup=50, floor=0.05))
    train: CodecTraining = CodecTraining()


def picks_of(run: CodecRun) -> dict[str, Pick]:
    """Every Pick of the run by its place."""
    return picks_at(run, PLACES)


def problems(run: CodecRun) -> list[Problem]:
    """What is wrong with a run though each of its values alone is right."""
    return check_record(run, _relations(run), AUTO)


def warnings_of(run: CodecRun) -> list[str]:
    """What goes together but is seldom meant, in sentences."""
    late = run.critic.weight and run.critic.begin >= run.train.updates
    critic = (
        f"critic.begin={run.critic.begin} is wrong for train.updates={run.train.updates} because "
        "the discriminator is never used. Set a lower critic.begin, or critic.weight=0."
    )
    return [*unreached(run), *([critic] if late else [])]


def _relations(run: CodecRun) -> Iterator[tuple[str, str]]:
    loss = run.loss
    if not any((loss.l1, loss.mse, loss.edges, loss.perceptual)):
        yield "loss", "compares nothing: give l1, mse, edges or perceptual a weight."
    if loss.perceptual and not loss.vgg:
        yield "loss.vgg", "is missing: loss.perceptual needs the weights of VGG-16."
    if loss.perceptual and run.data.channels != 3:
        yield "loss.perceptual", "compares colour images: set data.channels=3."
    if run.critic.weight and run.data.size < 2**run.critic.layers:
        yield "critic.layers", f"halves {run.data.size} pixels too often, got {run.critic.layers}."
