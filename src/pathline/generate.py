"""Parts and prompts to pictures: the only way to a picture."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from pathline.assemble import Parts, Sampler, moved
from pathline.codecs import denormalise
from pathline.flow.solvers import last
from pathline.types import Cond, Output

Autocast = Callable[[], AbstractContextManager]


def generate(
    parts: Parts,
    items: Sequence[str | int | None],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    batch: int = 64,
    weak: nn.Module | None = None,
    autocast: Autocast = nullcontext,
) -> UInt8[Tensor, "n c h w"]:
    """Draw one picture for each item (a prompt, a label, or None for anything) and its seed.

    Picture i depends on items[i] and seeds[i] alone, not on the batch it is drawn in.
    """
    drawn = []
    for start in range(0, len(items), batch):
        part = slice(start, start + batch)
        walk = states(parts, items[part], seeds[part], sampler, weak=weak, autocast=autocast)
        drawn.append(decode(parts, last(walk)))
    return torch.cat(drawn)


@torch.no_grad()
def states(
    parts: Parts,
    items: Sequence[str | int | None],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    weak: nn.Module | None = None,
    autocast: Autocast = nullcontext,
) -> Iterator[tuple[float, Tensor]]:
    """Every (t, x) on the way from noise to x1, the noise included."""
    if len(items) != len(seeds):
        raise ValueError(
            f"There are {len(items)} prompts but {len(seeds)} seeds; give one for each."
        )
    refuse_misfit(parts, sampler, weak)
    device = next(parts.network.parameters()).device
    cond = moved(parts.text.encode(items), device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise(x: Tensor) -> Tensor:
        drawn = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators])
        return drawn.to(x)

    x0 = noise(torch.empty(len(items), *parts.shape, device=device))
    network = _quiet(parts.network, autocast)
    other = (
        parts.objective.field(_quiet(weak, autocast), cond)
        if weak is not None
        else parts.objective.field(network, moved(_repeated(parts.text.null, len(items)), device))
    )
    field = sampler.guide(parts.objective.field(network, cond), other)
    yield from sampler.walk(field, x0, noise)


def refuse_misfit(parts: Parts, sampler: Sampler, weak: nn.Module | None = None) -> None:
    """Raises ValueError for a solver or guidance that this run can't be drawn with."""
    if sampler.weak and weak is None:
        raise ValueError(
            "Autoguidance leads away from a weaker network: draw with "
            "`pathline generate RUN --weak RUN --set guidance=autoguidance`; train without it."
        )
    if sampler.jumps and not parts.objective.spans:
        raise ValueError(
            "The solver step 'jump' needs an objective that learns average velocities; this one "
            "learns velocities at one time: take euler, unipc2 or another step."
        )


def decode(parts: Parts, x: Tensor) -> UInt8[Tensor, "b c h w"]:
    """States or finished x1 as pictures, on the CPU."""
    return parts.codec.decode(denormalise(parts.codec, x)).cpu()


def title(parts: Parts, item: str | int | None) -> str:
    """An item in words."""
    return parts.facts.names[item] if isinstance(item, int) else item or ""


def _quiet(network: nn.Module, autocast: Autocast) -> Callable[..., Output]:
    """The network as sampling calls it: no dropout, and in the precision asked for."""
    network.eval()

    def call(x: Tensor, t: Tensor, cond: Cond, r: Tensor | None = None) -> Output:
        with autocast():
            return network(x, t, cond, r)

    return call


def _repeated(null: Cond, rows: int) -> Cond:
    return Cond(*(None if v is None else v.expand(rows, *v.shape[1:]) for v in null))
