"""Parts and prompts to images, as a stream of events; nothing else samples images.

`generate` yields a `Step` for every state of every batch and a `Done` for every image. To cancel,
stop iterating. A preview is `Step.predict_x1()`, which costs no evaluation of the network more;
where nobody calls it, nothing is computed. `sample_images` collects the pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pathline.backbones.encoder_sharing import share_encoder, step_similarity
from pathline.backbones.network import Network
from pathline.backbones.token_routing import skip_route
from pathline.codecs.normalise import denormalise, normalise
from pathline.compatibility import Subject, named, require_decided
from pathline.flow.guidance import Push
from pathline.flow.preview import reuse_last, x1_prediction
from pathline.flow.solvers import last
from pathline.nn.attention import cond_to
from pathline.parts import MUST_MATCH, Parts, Sampler
from pathline.types import PLAIN_CALL, Call, Cond, Field, Item, Output, rows_of

Autocast = Callable[[], AbstractContextManager]


class Conditioning(NamedTuple):
    """What an image may be conditioned on besides its item; every field may be left out."""

    cond: Cond | None = None  # [n rows] encoded conditions; None: the items are encoded
    null: Cond | None = None  # one row, the negative branch of guidance; None: the text's null
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the training size
    x1: Tensor | None = None  # [n C H W] normalised latents of images to start from (SDEdit)
    strength: float = 1.0  # share of the path that is sampled again from x1, in (0, 1]

    def rows(self, rows: slice) -> "Conditioning":
        """The conditioning of these rows."""
        cond = None if self.cond is None else rows_of(self.cond, rows)
        return self._replace(cond=cond, x1=None if self.x1 is None else self.x1[rows])


UNCONDITIONED = Conditioning()


class Step(NamedTuple):
    """One state of a batch that is being sampled, the starting noise included."""

    rows: range  # indices of the batch's images among all items
    number: int  # 0 at the start, one more after each solver step
    t: float  # 0 noise … 1 data
    x: Tensor  # [b C H W] the state
    predict_x1: Callable[[], Tensor]  # the clean prediction x̂1 [b C H W] at this state


class Done(NamedTuple):
    """One finished image."""

    row: int  # of its item among all
    pixels: UInt8[Tensor, "c h w"]  # on the CPU


def generate(
    parts: Parts,
    items: Sequence[Item],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    batch: int = 64,
    weak: Parts | None = None,
    autocast: Autocast = nullcontext,
    conditioning: Conditioning = UNCONDITIONED,
) -> Iterator[Step | Done]:
    """Sample one image for each item (a prompt, a class index or None) and seed, in batches.

    Image i depends on items[i] and seeds[i] alone, not on its batch. weak: the weaker network of
    autoguidance. Raises ValueError for parts that this sampler can't sample from.
    """
    # Computed once for all batches: it may take a sampling run of its own.
    shared_times = encoder_times(parts, sampler, autocast)
    for start in range(0, len(items), batch):
        rows = slice(start, start + batch)
        step = None
        for step in sample_steps(
            parts,
            items[rows],
            seeds[rows],
            sampler,
            weak=weak,
            autocast=autocast,
            conditioning=conditioning.rows(rows),
            shared_times=shared_times,
        ):
            yield step._replace(rows=range(start, start + len(step.rows)))
        assert step is not None
        # The last state is the image; its rows count within the batch.
        for row, pixels in zip(step.rows, decode_images(parts, step.x), strict=True):
            yield Done(start + row, pixels)


def sample_images(
    parts: Parts, items: Sequence[Item], seeds: Sequence[int], sampler: Sampler, **options: Any
) -> UInt8[Tensor, "n c h w"]:
    """The images of `generate`, which takes the same arguments, in the order of the items."""
    events = generate(parts, items, seeds, sampler, **options)
    return torch.stack([event.pixels for event in events if isinstance(event, Done)])


@torch.no_grad()
def sample_steps(
    parts: Parts,
    items: Sequence[Item],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    weak: Parts | None = None,
    autocast: Autocast = nullcontext,
    conditioning: Conditioning = UNCONDITIONED,
    shared_times: Sequence[float] | None = None,
) -> Iterator[Step]:
    """Every state of one batch from noise to x1, the noise included.

    shared_times: the result of `encoder_times`; None: it is computed.
    """
    if len(items) != len(seeds):
        raise ValueError(
            f"seeds is wrong because there are {len(seeds)} seeds for {len(items)} items. Give one "
            "seed for each item."
        )
    check_sampler(parts, sampler, weak)
    device = next(parts.network.parameters()).device
    cond = conditioning.cond
    cond = cond_to(parts.text.encode(items) if cond is None else cond, device)
    null = cond_to(parts.text.null if conditioning.null is None else conditioning.null, device)
    # On the CPU, whose numbers are the same whatever device samples.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise(x: Tensor) -> Tensor:
        rows = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators])
        return rows.to(x)

    x0 = noise(torch.empty(len(items), *parts.shape(conditioning.size), device=device))
    if shared_times is None:
        shared_times = encoder_times(parts, sampler, autocast)

    def velocity_field(of: Parts, cond: Cond, *, skips: bool = False) -> Field:
        network = _for_sampling(of.network, autocast, skips=skips)
        if shared_times and of.network.has("encoder"):
            return share_encoder(of.objective.field, network, cond, shared_times)
        return of.objective.field(network, cond)

    # guidance combines the conditional field with a weaker network's or the unconditional one
    if weak is not None:
        other = velocity_field(weak, cond)
    else:
        without_route = sampler.other == "null_without_route"
        other = velocity_field(parts, _repeat(null, len(items)), skips=without_route)
    push = parts.push and _resize_push(parts.push, x0)
    field = reuse_last(sampler.guide(velocity_field(parts, cond), other, push))
    x_start, t_start = _start(parts, conditioning, x0)
    predicts_x1 = any(run.objective.prediction == "x1" for run in (parts, weak) if run)
    walk = sampler.walk(field, x_start, noise, t_start, predicts_x1=predicts_x1)
    for number, (t, x) in enumerate(walk):
        yield Step(range(len(items)), number, t, x, x1_prediction(parts.path, field, x, t))


def _resize_push(push: Push, x0: Tensor) -> Push:
    """The contrastive mean on the device, in the size that is sampled."""
    mean = push.mean.to(x0.device)[None]
    if mean.shape[2:] not in ((1, 1), x0.shape[2:]):
        mean = F.interpolate(mean, x0.shape[2:], mode="bilinear", antialias=True)
    return push._replace(mean=mean[0])


@torch.no_grad()
def encoder_times(parts: Parts, sampler: Sampler, autocast: Autocast) -> Sequence[float]:
    """Times at which a ddt's encoder runs; (): at every evaluation.

    Some schedules are computed from how similar its hidden states are while 8 images are sampled.
    """
    if sampler.share is None:
        return ()
    network = _for_sampling(parts.network, autocast)
    device = next(parts.network.parameters()).device

    def similarity() -> Tensor:
        hidden_states = []

        def record_hidden(x: Tensor, t: Tensor, cond: Cond, call: Call = PLAIN_CALL) -> Output:
            out = network(x, t, cond, call)
            hidden_states.append(out.hidden)
            return out

        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(8, *parts.shape(), generator=rng).to(device)
        cond = _repeat(cond_to(parts.text.null, device), 8)
        field = parts.objective.field(record_hidden, cond)
        predicts_x1 = parts.objective.prediction == "x1"
        last(sampler.walk(field, noise, torch.zeros_like, predicts_x1=predicts_x1))
        return step_similarity(hidden_states)

    return sampler.share(similarity)


def _start(parts: Parts, conditioning: Conditioning, x0: Tensor) -> tuple[Tensor, float]:
    """The first state and its time: noise at 0, or an image with noise added (SDEdit)."""
    x1, strength = conditioning.x1, conditioning.strength
    if x1 is None:
        return x0, 0.0
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength} is wrong because it must be in (0, 1]. Set 0.6.")
    if x1.shape != x0.shape:
        raise ValueError(
            f"x1 is wrong because its shape is {tuple(x1.shape[1:])}, and samples have "
            f"{tuple(x0.shape[1:])}. Resize the initial image to the size of the samples."
        )
    t = 1 - strength
    return parts.path.alpha(t) * x1.to(x0) + parts.path.sigma(t) * x0, t


def check_sampler(parts: Parts, sampler: Sampler, weak: Parts | None = None) -> None:
    """Raises ValueError for a solver or guidance that these parts can't be sampled with."""
    _check_weak(sampler, parts, weak)
    require_decided(sampler.needs, _subject(parts, weak))
    if weak:  # the first need is the solver's; guidance and sharing need nothing of it
        named("the weaker run", require_decided)(sampler.needs[:1], _subject(weak))


def _subject(parts: Parts, weak: Parts | None = None) -> Subject:
    """What is known of these parts for the needs of solver, guidance and encoder sharing."""
    return Subject(
        answers=parts.objective.answers,
        has_encoder=parts.network.has("encoder"),
        has_bypass=parts.network.has("join"),
        has_mean_velocity=parts.push is not None,
        has_weak_network=weak is not None,
    )


def _check_weak(sampler: Sampler, parts: Parts, weak: Parts | None) -> None:
    if weak and sampler.other != "weak":
        raise ValueError(
            "--weak is wrong because only guidance=autoguidance uses a weaker network. Add "
            "guidance=autoguidance, or leave --weak out."
        )
    for what, of in MUST_MATCH.items():
        if weak and of(weak) not in (of(parts), ()):  # (): it reads no words or classes
            raise ValueError(
                f"--weak is wrong because the weaker run has another {what}: {of(weak)}, this run "
                f"{of(parts)}. Use a run of the same data that is smaller or was trained less."
            )


@torch.no_grad()
def encode_images(
    parts: Parts, pixels: UInt8[Tensor, "n c h w"], device: torch.device
) -> Float[Tensor, "n k i j"]:
    """Images as normalised latents x1."""
    return normalise(parts.codec, parts.codec.encode(pixels.to(device)))


def decode_images(parts: Parts, x: Tensor) -> UInt8[Tensor, "b c h w"]:
    """States or finished x1 as images, on the CPU."""
    return parts.codec.decode(denormalise(parts.codec, x)).cpu()


def item_text(parts: Parts, item: Item) -> str:
    """The prompt, the name of the class, or "" for None."""
    return parts.facts.names[item] if isinstance(item, int) else item or ""


def _for_sampling(
    network: Network, autocast: Autocast, *, skips: bool = False
) -> Callable[..., Output]:
    """The network in eval mode, under autocast; skips: without the blocks that tokens may miss."""
    network.eval()

    def sampled(x: Tensor, t: Tensor, cond: Cond, call: Call = PLAIN_CALL) -> Output:
        with autocast():
            return network(x, t, cond, call._replace(route=skip_route(x)) if skips else call)

    return sampled


def _repeat(null: Cond, rows: int) -> Cond:
    return Cond(*(None if v is None else v.expand(rows, *v.shape[1:]) for v in null))
