"""Measurements inside a network: gradients, updates, activations, attention logits.

A probed update is read from the device once. Probes change no weights, gradients or generators.
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
    """A feed and a hook that measure every n-th update of the player; n = 0: never.

    more: further values to read with them. pictures: images of the batch for the forward pass.
    Tracked, for every role of weights: gradient/ROLE (before clipping), ratio/ROLE (size of the
    update as a share of the weights'). For every block: activation_in_rms, activation_in_max and
    _out_ (around its non-linearity), logit_max (attention's, before softmax; sizes, not signs).
    """
    if not n:
        return feed, lambda *_: None
    prefix = "" if player.name == "network" else f"{player.name}/"
    kinds = roles(player.network)
    before: dict[str, Tensor] = {}
    probed: list[Lane] = []

    def watched(progress: Progress) -> Sequence[Lane]:
        lanes = feed(progress)
        if (progress.update + 1) % n == 0:
            # Copies of the weights are needed only for updates that are measured.
            before.update({k: p.detach().clone() for k, p in player.network.named_parameters()})
            probed[:] = lanes[:1]
        return lanes

    def look(progress: Progress, reports: Reports) -> None:
        # Gradients are still those of this update; weights are compared with those before it.
        report = reports.get(player.name)
        if before and report is not None and report.taken:
            # Seeded by the update, so that a resumed run probes with the same noise.
            rng = torch.Generator(probed[0][1].device).manual_seed(progress.update)
            values = gradients(player.network, kinds, report)
            values |= ratios(player.network, kinds, before)
            values |= inside(player, head(probed[0][0], pictures), rng) | more()
            read = torch.stack([value.float() for value in values.values()]).tolist()
            pairs = zip(values, read, strict=True)
            finite = {prefix + key: value for key, value in pairs if math.isfinite(value)}
            track(progress.update, progress.images, finite)
        before.clear()
        probed.clear()

    return watched, look


def gradients(network: nn.Module, kinds: Mapping[str, Sequence[str]], report: Update) -> Values:
    """The gradient's norm by role, as it was before clipping."""
    live = dict(network.named_parameters())
    by_role = {
        role: [g for name in names if (g := live[name].grad) is not None]
        for role, names in kinds.items()
    }
    norms = {role: _norm(parts) for role, parts in by_role.items() if parts}
    # The norm before clipping is known; its ratio to the norm now undoes the clipping.
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
    """Activations and logits of blocks in a forward pass, neither compiled nor wrapped."""
    eager = torch.compiler.set_stance("force_eager")
    with (
        eager,
        entered(player.network) as stack,
        Recorder(stack) as recorder,
        player.precision.autocast(),
    ):
        player.loss(player.network, batch, rng)
    return recorder.values()


@contextmanager
def entered(network: nn.Module) -> Iterator[list[str]]:
    """A list whose last entry is the block being run: a child of a module list, by its name.

    Its hooks are removed from the blocks on exit.
    """
    stack: list[str] = []
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            children = module.named_children() if isinstance(module, nn.ModuleList) else ()
            for index, block in children:
                enter, leave = _steps(stack, f"{name}.{index}")
                hooks.callback(block.register_forward_pre_hook(enter).remove)
                hooks.callback(block.register_forward_hook(leave).remove)
        yield stack


def _steps(stack: list[str], name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    return lambda *_: stack.append(name), lambda *_: stack.remove(name)


class Recorder(TorchFunctionMode):
    """Records the functions that blocks call, whatever the blocks are made of."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()
        self.stack = stack
        self.records: dict[str, list[tuple[Tensor, Tensor]]] = {}  # name -> (mean square, max)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.stack and func in BENT:
            self._note("activation_in", args[0])
            self._note("activation_out", out)
        elif self.stack and func is F.scaled_dot_product_attention:
            self._note("logit", logits(*args[:4], **(kwargs or {})))
        return out

    def _note(self, what: str, x: Tensor) -> None:
        x = x.detach().float()
        notes = self.records.setdefault(f"{self.stack[-1]}/{what}", [])
        finite = x.where(x.isfinite(), 0)  # masked logits are −∞
        notes.append((finite.square().mean(), finite.abs().amax()))

    def values(self) -> Values:
        values: Values = {}
        for name, notes in self.records.items():
            squares, maxima = (torch.stack(column) for column in zip(*notes, strict=True))
            if not name.endswith("/logit"):
                values[f"{name}_rms"] = squares.mean().sqrt()
            values[f"{name}_max"] = maxima.amax()
        return values


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
    # Grouped queries: each key serves several heads.
    shared = query.shape[-3] // key.shape[-3]  # heads that share keys
    if shared > 1:
        key = key.repeat_interleave(shared, dim=-3)
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return logits
    if attn_mask.dtype == torch.bool:
        return logits.masked_fill(~attn_mask, -math.inf)
    return logits + attn_mask


def timed(criterion: Criterion, *, bins: int = 10) -> tuple[Criterion, Callable[[], Values]]:
    """The criterion, and a function that returns the velocity's mean squared error by time.

    It averages over images since its last call; a bin without images is nan.
    Named loss/t=0.05 by the middle of the bin.
    """
    sums: list[Tensor] = []  # [2 bins] errors, pictures; on the device they come on

    def counting(point: Point, out: Output) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled():  # no validation, no probe
            with torch.no_grad():
                _count(sums, point, out, bins)
        return criterion(point, out)

    def error_by_time() -> Values:
        if not sums:
            return {}
        errors, pictures = sums.pop()
        # One read from the device for all bins.
        middles = [(index + 0.5) / bins for index in range(bins)]
        return {f"loss/t={t:.2f}": e for t, e in zip(middles, errors / pictures, strict=True)}

    return counting, error_by_time


def _count(sums: list[Tensor], point: Point, out: Output, bins: int) -> None:
    error = (out.value.float() - point.v).square().flatten(1).mean(1)
    fine = error.isfinite()
    place = (point.t * bins).long().clamp(0, bins - 1)
    pair = torch.stack([error.where(fine, 0), fine.to(error.dtype)])
    if not sums:
        sums.append(torch.zeros(2, bins, device=error.device))
    sums[0].index_add_(1, place, pair)


def head(batch: Batch, count: int) -> Batch:
    """The first images of a batch."""
    cond = rows_of(batch.cond, slice(count))
    return Batch(batch.x1[:count], cond, batch.null, batch.keys[:count])


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return whole(torch.nn.utils.get_total_norm(tensors)).float()
