"""What a network does inside, looked at now and then: gradients, updates, activations, logits.

A probed update is read from the device once. Nothing here changes weights, gradients or chance.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pathline.training.distributed import whole
from pathline.training.loop import Feed, Hook, Progress, Reports
from pathline.training.optim import roles
from pathline.training.players import Lane, Player, Update
from pathline.training.team import Team
from pathline.training.trackers.jsonl import Track
from pathline.types import Batch, Output, Point, rows_of

BENT = (F.gelu, F.silu, F.relu, F.sigmoid, torch.sigmoid, torch.relu, torch.tanh, F.tanh)
Values = dict[str, Tensor]  # of one number each, on the device
Criterion = Callable[[Point, Output], tuple[Tensor, dict[str, Tensor]]]


def probe_team(team: Team, feed: Feed, track: Track, n: int) -> tuple[Feed, list[Hook]]:
    """The feed and the hooks that probe every player at every n-th update; n = 0: never."""
    hooks, more = [], team.probe_values
    for player in team.players:
        feed, hook = probes(player, feed, track, n, more=more)
        hooks.append(hook)
        more = dict
    return feed, hooks


def probes(
    player: Player,
    feed: Feed,
    track: Track,
    n: int,
    *,
    more: Callable[[], Values] = dict,
    pictures: int = 16,
) -> tuple[Feed, Hook]:
    """A feed and a hook that look at every n-th update of the player; n = 0: never.

    more: further values to read with the others. pictures: of the batch, for what is seen inside.
    Tracked, for every role of weights: gradient/ROLE (before clipping), ratio/ROLE (size of the
    update as a share of the weights'). For every block: activation_in_rms, activation_in_max and
    _out_ (around its non-linearity), logit_max (attention's, before softmax; sizes, not signs).
    """
    if not n:
        return feed, lambda *_: None
    prefix = "" if player.name == "network" else f"{player.name}/"
    kinds = roles(player.network)
    before: dict[str, Tensor] = {}
    seen: list[Lane] = []

    def watched(progress: Progress) -> Sequence[Lane]:
        lanes = feed(progress)
        if (progress.update + 1) % n == 0:
            before.update({k: p.detach().clone() for k, p in player.network.named_parameters()})
            seen[:] = lanes[:1]
        return lanes

    def look(progress: Progress, reports: Reports) -> None:
        report = reports.get(player.name)
        if before and report is not None and report.taken:
            rng = torch.Generator(seen[0][1].device).manual_seed(progress.update)
            values = gradients(player.network, kinds, report)
            values |= ratios(player.network, kinds, before)
            values |= inside(player, head(seen[0][0], pictures), rng) | more()
            read = torch.stack([value.float() for value in values.values()]).tolist()
            told = {prefix + k: v for k, v in zip(values, read, strict=True) if math.isfinite(v)}
            track(progress.update, progress.images, told)
        before.clear()
        seen.clear()

    return watched, look


def gradients(network: nn.Module, kinds: Mapping[str, Sequence[str]], report: Update) -> Values:
    """The gradient's norm by role, as it was before clipping."""
    live = dict(network.named_parameters())
    found = {
        role: [g for name in names if (g := live[name].grad) is not None]
        for role, names in kinds.items()
    }
    norms = {role: _norm(parts) for role, parts in found.items() if parts}
    clipped = torch.stack(list(norms.values())).norm()
    back = whole(report.norm) / clipped.clamp(min=torch.finfo(clipped.dtype).tiny)
    return {f"gradient/{role}": norm * back for role, norm in norms.items()}


def ratios(
    network: nn.Module, kinds: Mapping[str, Sequence[str]], before: Mapping[str, Tensor]
) -> Values:
    """Size of the update as a share of the weights' size, by role; about 1e-3 is usual."""
    live = {name: p.detach() for name, p in network.named_parameters()}
    return {
        f"ratio/{role}": _norm([live[name] - before[name] for name in names])
        / _norm([before[name] for name in names])
        for role, names in kinds.items()
    }


@torch.no_grad()
def inside(player: Player, batch: Batch, rng: torch.Generator) -> Values:
    """What blocks see in one forward pass of the network itself, neither compiled nor wrapped."""
    eager = torch.compiler.set_stance("force_eager")
    with eager, entered(player.network) as here, Eye(here) as eye, player.precision.autocast():
        player.loss(player.network, batch, rng)
    return eye.values()


@contextmanager
def entered(network: nn.Module) -> Iterator[list[str]]:
    """A list whose last entry is the block at work: a child of a module list, by its name.

    Its hooks on the blocks are gone after the with block.
    """
    here: list[str] = []
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            children = module.named_children() if isinstance(module, nn.ModuleList) else ()
            for index, block in children:
                enter, leave = _steps(here, f"{name}.{index}")
                hooks.callback(block.register_forward_pre_hook(enter).remove)
                hooks.callback(block.register_forward_hook(leave).remove)
        yield here


def _steps(here: list[str], name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    return lambda *_: here.append(name), lambda *_: here.remove(name)


class Eye(TorchFunctionMode):
    """Sees the functions that blocks call, whatever the blocks are made of."""

    def __init__(self, here: list[str]) -> None:
        super().__init__()
        self.here = here
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {}  # where -> (mean square, most)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.here and func in BENT:
            self._note("activation_in", args[0])
            self._note("activation_out", out)
        elif self.here and func is F.scaled_dot_product_attention:
            self._note("logit", logits(*args[:4], **(kwargs or {})))
        return out

    def _note(self, what: str, x: Tensor) -> None:
        x = x.detach().float()
        notes = self.seen.setdefault(f"{self.here[-1]}/{what}", [])
        finite = x.where(x.isfinite(), 0)  # masked logits are −∞
        notes.append((finite.square().mean(), finite.abs().amax()))

    def values(self) -> Values:
        found: Values = {}
        for where, notes in self.seen.items():
            squares, most = (torch.stack(column) for column in zip(*notes, strict=True))
            if not where.endswith("/logit"):
                found[f"{where}_rms"] = squares.mean().sqrt()
            found[f"{where}_max"] = most.amax()
        return found


def logits(
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    **_: object,
) -> Tensor:
    """Attention's logits [b heads l m] from what `scaled_dot_product_attention` is called with."""
    del value
    shared = query.shape[-3] // key.shape[-3]  # heads that have keys in common
    if shared > 1:
        key = key.repeat_interleave(shared, dim=-3)
    found = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return found
    if attn_mask.dtype == torch.bool:
        return found.masked_fill(~attn_mask, -math.inf)
    return found + attn_mask


def timed(criterion: Criterion, *, bins: int = 10) -> tuple[Criterion, Callable[[], Values]]:
    """The criterion, and a function that tells the mean squared error of the velocity by time.

    It counts every picture trained on since it was last asked; a bin without pictures is nan.
    Named loss/t=0.05 by the middle of the bin.
    """
    sums: list[Tensor] = []  # [2 bins] errors, pictures; on the device they come on

    def counting(point: Point, out: Output) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled():  # no validation, no probe
            with torch.no_grad():
                _count(sums, point, out, bins)
        return criterion(point, out)

    def told() -> Values:
        if not sums:
            return {}
        errors, pictures = sums.pop()
        middles = [(index + 0.5) / bins for index in range(bins)]
        return {f"loss/t={t:.2f}": e for t, e in zip(middles, errors / pictures, strict=True)}

    return counting, told


def _count(sums: list[Tensor], point: Point, out: Output, bins: int) -> None:
    error = (out.value.float() - point.v).square().flatten(1).mean(1)
    fine = error.isfinite()
    place = (point.t * bins).long().clamp(0, bins - 1)
    pair = torch.stack([error.where(fine, 0), fine.to(error.dtype)])
    if not sums:
        sums.append(torch.zeros(2, bins, device=error.device))
    sums[0].index_add_(1, place, pair)


def head(batch: Batch, count: int) -> Batch:
    """The first pictures of a batch."""
    cond = rows_of(batch.cond, slice(count))
    return Batch(batch.x1[:count], cond, batch.null, batch.keys[:count])


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return whole(torch.nn.utils.get_total_norm(tensors)).float()
