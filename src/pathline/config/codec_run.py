"""What the training of a codec is: every setting with its default, its presets, its numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pathline.config.layers import Problem
from pathline.config.pick import Pick, pick
from pathline.config.run import About
from pathline.dtypes import Dtype

# Where a Pick stands -> what a row of its table is called in messages.
PLACES = {
    "data.source": "data source",
    "network": "codec network",
    "optimizer": "optimizer",
    "schedule": "schedule",
}


@dataclass(frozen=True)
class Pictures:
    source: Pick = field(default_factory=lambda: Pick("shapes"))
    size: int = 32  # pictures are cut square and scaled to size × size
    channels: int = 3  # 1 grey, 3 colour
    holdout: float = 0.05  # share of the pictures kept for validation
    flip: bool = False  # mirror every other picture
    max_bad: float = 0.01  # largest share of unreadable pictures
    memory_gb: float = 8.0  # decoded pictures above this lie on disk


@dataclass(frozen=True)
class Loss:
    """Weights of what compares pictures, and what is done to latents before decoding."""

    l1: float = 1.0
    mse: float = 1.0
    edges: float = 0.0  # L1 of the slopes
    perceptual: float = 0.0  # distance of VGG-16 features
    vgg: str | None = None  # its weights: torchvision's vgg16, .pth or .safetensors
    noise: float = 0.0  # scale of the noise mixed into latents; 3 in l-DeTok
    equivariance: float = 0.0  # share of updates on scaled and turned latents


@dataclass(frozen=True)
class Critic:
    """A second player that tells real pictures from decoded ones."""

    weight: float = 0.0  # 0: none
    begin: int = 2000  # update from which it learns and is listened to
    width: int = 32
    layers: int = 2


@dataclass(frozen=True)
class Train:
    updates: int = 5000
    batch: int = 32
    clip: float = 1.0  # largest gradient norm; 0: none
    precision: Literal["auto", Dtype] = "fp32"
    ema: float = 0.99  # decay of the weights that become the codec
    trackers: tuple[str, ...] = ()  # beside metrics.jsonl: trackio, wandb, tensorboard
    log_every: int = 50  # updates, here and below
    validate_every: int = 500  # 0: never
    sample_every: int = 500  # 0: never
    save_every: int = 500
    keep_recent: int = 2  # checkpoints
    keep_every: int = 0  # updates; 0: none are kept for good


@dataclass(frozen=True)
class CodecRun:
    """One training of a codec: data × network × losses × optimizer, by name."""

    name: str = "codec"
    about: About = field(default_factory=About)
    seed: int = 0
    device: str = "auto"
    data: Pictures = Pictures()
    network: Pick = field(default_factory=lambda: Pick("kl_small"))
    loss: Loss = Loss()
    critic: Critic = Critic()
    optimizer: Pick = field(default_factory=lambda: pick("adamw", lr=1e-3, beta2=0.95))
    schedule: Pick = field(default_factory=lambda: pick("cosine", warmup=50, floor=0.05))
    train: Train = Train()


def picks_of(run: CodecRun) -> dict[str, Pick]:
    """Every Pick of the run by its place."""
    return {place: _at(run, place) for place in PLACES}


def problems(run: CodecRun) -> list[Problem]:
    """Every number that cannot be, with what it would have to be."""
    return [Problem(key, message) for key, message in (*_ranges(run), *_relations(run))]


POSITIVE = (
    *("data.size", "data.memory_gb", "train.updates", "train.batch", "train.log_every"),
    *("train.save_every", "train.keep_recent", "critic.width", "critic.layers"),
)
NOT_NEGATIVE = (
    *("seed", "train.clip", "train.validate_every", "train.sample_every", "train.keep_every"),
    *("loss.l1", "loss.mse", "loss.edges", "loss.perceptual", "loss.noise"),
    *("critic.weight", "critic.begin"),
)
SHARES = ("data.max_bad", "loss.equivariance")


def _ranges(run: CodecRun) -> Iterator[tuple[str, str]]:
    for key in POSITIVE:
        if _at(run, key) <= 0:
            yield key, f"must be above 0, got {_at(run, key)}."
    for key in NOT_NEGATIVE:
        if _at(run, key) < 0:
            yield key, f"must not be negative, got {_at(run, key)}."
    for key in SHARES:
        if not 0 <= _at(run, key) <= 1:
            yield key, f"is a share and lies in [0, 1], got {_at(run, key)}."
    for key in ("data.holdout", "train.ema"):
        if not 0 <= _at(run, key) < 1:
            yield key, f"lies in [0, 1), got {_at(run, key)}."
    if run.data.channels not in (1, 3):
        yield "data.channels", f"is 1 (grey) or 3 (colour), got {run.data.channels}."


def _relations(run: CodecRun) -> Iterator[tuple[str, str]]:
    loss = run.loss
    if not any((loss.l1, loss.mse, loss.edges, loss.perceptual)):
        yield "loss", "compares nothing: give l1, mse, edges or perceptual a weight."
    if loss.perceptual and not loss.vgg:
        yield "loss.vgg", "is missing: loss.perceptual needs the weights of VGG-16."
    if loss.perceptual and run.data.channels != 3:
        yield "loss.perceptual", "compares colour pictures: set data.channels=3."
    if run.critic.weight and run.data.size < 2**run.critic.layers:
        yield "critic.layers", f"halves {run.data.size} pixels too often, got {run.critic.layers}."
    chosen = run.data.source
    if chosen.name == "auto" and not chosen.options.get("path"):
        yield "data.source", "is left to your folder, but none is named: give its path."
    if not run.name or "/" in run.name or run.name in (".", ".."):
        yield "name", f"names the run's folder and cannot be {run.name!r}."


def _at(record: Any, place: str) -> Any:
    for part in place.split("."):
        record = getattr(record, part)
    return record


# Convolutions of half the picture's size: on a CPU the full size would take three times as long.
KL = pick("kl_small", patch=2, width=48, depth=1, kl=1e-6)
VQ = pick("vqvae", patch=2, width=48, depth=1, size=256)
FSQ = pick("fsq", patch=2, width=48, depth=1, levels=(8, 5, 5, 5))

SHAPES_KL = CodecRun(
    name="shapes-kl",
    about=About(
        purpose="captioned shapes 32×32 to 4×8×8, continuous latents: minutes on a CPU",
        expect="held-out PSNR 31.8 dB after 500 updates, 32.8 after 600; no channel collapses",
        time="four minutes, 0.23 s an update",
        device="one CPU core",
    ),
    data=Pictures(source=pick("shapes", count=4000)),
    network=KL,
    train=Train(updates=1000),
)
SHAPES_VQ = replace(
    SHAPES_KL,
    name="shapes-vq",
    about=About(purpose="captioned shapes 32×32 to 4×8×8, a codebook of 256"),
    network=VQ,
)
SHAPES_FSQ = replace(
    SHAPES_KL,
    name="shapes-fsq",
    about=About(purpose="captioned shapes 32×32 to 4×8×8, 1000 fixed codes"),
    network=FSQ,
)
DIGITS_VQ = CodecRun(
    name="digits-vq",
    about=About(purpose="handwritten digits 8×8 to 4×4×4, a codebook of 64: a look in a minute"),
    data=Pictures(source=Pick("digits"), size=8, channels=1, holdout=0.2),
    network=pick("vqvae", factor=2, width=32, depth=1, size=64),
    train=Train(updates=600, batch=64, validate_every=200, sample_every=200, save_every=200),
)
EMOJI_KL = CodecRun(
    name="emoji-kl",
    about=About(purpose="emoji 64×64 to 8×8×8; data.source.path names their folder"),
    data=Pictures(source=pick("folder", path="emoji"), size=64),
    network=pick("kl_small", channels=8, factor=8, patch=2, width=48, depth=1),
    train=Train(updates=5000, batch=16),
)
OWN = CodecRun(
    name="own",
    about=About(purpose="the base for your own folder of pictures"),
    data=Pictures(size=64),
    network=pick("kl_small", channels=8, factor=8, patch=2, width=64, depth=2),
    train=Train(updates=10_000, batch=16),
)

CODEC_PRESETS = {
    run.name: run for run in (SHAPES_KL, SHAPES_VQ, SHAPES_FSQ, DIGITS_VQ, EMOJI_KL, OWN)
}
