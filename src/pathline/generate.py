"""Parts and prompts to pictures: the only way to a picture."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.assemble import Parts, Sampler
from pathline.backbones.ddt import DDT, likeness, sharing
from pathline.backbones.token_routing import around, joins
from pathline.codecs.normalise import denormalise, normalise
from pathline.compatibility import Subject, named, require
from pathline.flow.guidance import Push
from pathline.flow.solvers import last
from pathline.nn.attention import needed
from pathline.types import Cond, Field, Output, rows_of

Autocast = Callable[[], AbstractContextManager]
Item = str | int | None  # a prompt, a class, or anything


class Ask(NamedTuple):
    """What a drawing may be told beside its items; everything may be left out."""

    cond: Cond | None = None  # [n rows] to draw in place of the items' own
    null: Cond | None = None  # one row that guidance leads away from; None: the text's own
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the run's own
    x1: Tensor | None = None  # [n C H W] finished pictures to begin from
    strength: float = 1.0  # share of the way that is walked anew from x1: 1 all, 0 none of it

    def rows(self, some: slice) -> "Ask":
        """The same for these of its rows."""
        cond = None if self.cond is None else rows_of(self.cond, some)
        return self._replace(cond=cond, x1=None if self.x1 is None else self.x1[some])


NOTHING = Ask()
ALIKE: dict[str, Callable[[Parts], object]] = {  # in a run and the weaker one it leads away from
    "codec": lambda parts: parts.codec.id,
    "text encoder": lambda parts: parts.text.id,
    "shape of data": lambda parts: parts.shape(),
    "list of classes": lambda parts: parts.facts.names,
}


def generate(
    parts: Parts,
    items: Sequence[Item],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    batch: int = 64,
    weak: Parts | None = None,
    autocast: Autocast = nullcontext,
    ask: Ask = NOTHING,
) -> UInt8[Tensor, "n c h w"]:
    """Draw one picture for each item (a prompt, a label, or None for anything) and its seed.

    Picture i depends on items[i] and seeds[i] alone, not on the batch it is drawn in.
    """
    drawn, times = [], encoder_times(parts, sampler, autocast)
    for start in range(0, len(items), batch):
        rows = slice(start, start + batch)
        walk = states(
            parts,
            items[rows],
            seeds[rows],
            sampler,
            weak=weak,
            autocast=autocast,
            ask=ask.rows(rows),
            times=times,
        )
        drawn.append(decode(parts, last(walk)))
    return torch.cat(drawn)


@torch.no_grad()
def states(
    parts: Parts,
    items: Sequence[Item],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    weak: Parts | None = None,
    autocast: Autocast = nullcontext,
    ask: Ask = NOTHING,
    times: Sequence[float] | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Every (t, x) on the way from noise to x1, the noise included.

    times: what `encoder_times` found; None: it is asked.
    """
    if len(items) != len(seeds):
        raise ValueError(
            f"There are {len(items)} prompts but {len(seeds)} seeds; give one for each."
        )
    refuse_misfit(parts, sampler, weak)
    device = next(parts.network.parameters()).device
    cond = moved(parts.text.encode(items) if ask.cond is None else ask.cond, device)
    null = moved(parts.text.null if ask.null is None else ask.null, device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise(x: Tensor) -> Tensor:
        drawn = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators])
        return drawn.to(x)

    x0 = noise(torch.empty(len(items), *parts.shape(ask.size), device=device))
    times = encoder_times(parts, sampler, autocast) if times is None else times

    def read(of: Parts, cond: Cond, *, skips: bool = False) -> Field:
        network = _quiet(of.network, autocast, skips=skips)
        return sharing(of.objective.field, network, cond, times if _shares(of.network) else ())

    field = read(parts, cond)
    if weak is not None:
        other = read(weak, cond)
    else:
        without = sampler.other == "null_without_route"
        other = read(parts, _repeated(null, len(items)), skips=without)
    guided = sampler.guide(field, other, parts.push and _pushed(parts.push, x0))
    yield from sampler.walk(guided, *_begun(parts, ask, x0, noise))


def _pushed(push: Push, x0: Tensor) -> Push:
    """The push with its mean picture on the device, in the size that is drawn."""
    mean = push.mean.to(x0.device)[None]
    if mean.shape[2:] not in ((1, 1), x0.shape[2:]):
        mean = F.interpolate(mean, x0.shape[2:], mode="bilinear", antialias=True)
    return push._replace(mean=mean[0])


@torch.no_grad()
def encoder_times(parts: Parts, sampler: Sampler, autocast: Autocast) -> Sequence[float]:
    """When a ddt's encoder runs; (): always. A program is made from one walk of 8 pictures."""
    if sampler.share is None:
        return ()
    network = _quiet(parts.network, autocast)
    device = next(parts.network.parameters()).device

    def measured() -> Tensor:
        heard = []

        def noting(*inputs: Tensor | Cond | None) -> Output:
            out = network(*inputs)
            heard.append(out.hidden)
            return out

        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(8, *parts.shape(), generator=rng).to(device)
        cond = _repeated(moved(parts.text.null, device), 8)
        last(sampler.walk(parts.objective.field(noting, cond), noise, torch.zeros_like))
        return likeness(heard)

    return sampler.share(measured)


def _begun(parts: Parts, ask: Ask, x0: Tensor, noise: Callable) -> tuple[Tensor, Callable, float]:
    """Where the walk begins: at noise, or at a picture carried back towards it (SDEdit)."""
    if ask.x1 is None:
        return x0, noise, 0.0
    if not 0 < ask.strength <= 1:
        raise ValueError(f"A strength of {ask.strength} was asked for; it lies in (0, 1].")
    if ask.x1.shape != x0.shape:
        raise ValueError(
            f"The picture to begin from is {tuple(ask.x1.shape[1:])} as x1, the one to be drawn "
            f"{tuple(x0.shape[1:])}; give them one size."
        )
    start = 1 - ask.strength
    path = parts.path
    return path.alpha(start) * ask.x1.to(x0) + path.sigma(start) * x0, noise, start


def _shares(network: nn.Module) -> bool:
    """Whether it has an encoder whose answer steps can share."""
    return any(isinstance(module, DDT) for module in network.modules())


def refuse_misfit(parts: Parts, sampler: Sampler, weak: Parts | None = None) -> None:
    """Raises ValueError for a solver or guidance that this run can't be drawn with."""
    _refuse_weak(sampler, parts, weak)
    require(sampler.needs, _subject(parts)._replace(has_weak_network=weak is not None))
    if weak:
        named("the weaker run", require)(sampler.needs[:1], _subject(weak))


def _subject(parts: Parts) -> Subject:
    """What the parts show of what a sampler may need."""
    return Subject(
        answers=parts.objective.answers,
        has_encoder=_shares(parts.network),
        has_bypass=joins(parts.network),
        has_mean_velocity=parts.push is not None,
    )


@torch.no_grad()
def encode(
    parts: Parts, pixels: UInt8[Tensor, "n c h w"], device: torch.device
) -> Float[Tensor, "n k i j"]:
    """Pictures as x1."""
    return normalise(parts.codec, parts.codec.encode(pixels.to(device)))


def _refuse_weak(sampler: Sampler, parts: Parts, weak: Parts | None) -> None:
    if weak and sampler.other != "weak":
        raise ValueError(
            "--weak is wrong because only guidance=autoguidance uses a weaker network. Add `--set "
            "guidance=autoguidance`, or leave --weak out."
        )
    for what, of in ALIKE.items():
        if weak and of(parts) != of(weak):
            raise ValueError(
                f"The weaker run has another {what}: {of(weak)}, this one {of(parts)}. Take a run "
                "of the same data, less trained or smaller."
            )


def decode(parts: Parts, x: Tensor) -> UInt8[Tensor, "b c h w"]:
    """States or finished x1 as pictures, on the CPU."""
    return parts.codec.decode(denormalise(parts.codec, x)).cpu()


def title(parts: Parts, item: Item) -> str:
    """An item in words."""
    return parts.facts.names[item] if isinstance(item, int) else item or ""


def _quiet(network: nn.Module, autocast: Autocast, *, skips: bool = False) -> Callable[..., Output]:
    """The network as sampling calls it: no dropout, and in the precision asked for.

    skips: it does without the route that it learnt with.
    """
    network.eval()

    def call(
        x: Tensor, t: Tensor, cond: Cond, r: Tensor | None = None, *more: Tensor | None
    ) -> Output:
        with autocast():
            return network(x, t, cond, r, *more, **({"route": around(x)} if skips else {}))

    return call


def moved(cond: Cond, device: torch.device) -> Cond:
    """The condition on the device; a mask that hides nothing stays behind."""
    if cond.words is None:  # the word encoder wants its mask
        cond = cond._replace(mask=needed(cond.mask))
    return Cond(*(None if v is None else v.to(device, non_blocking=True) for v in cond))


def _repeated(null: Cond, rows: int) -> Cond:
    return Cond(*(None if v is None else v.expand(rows, *v.shape[1:]) for v in null))
