"""A player is a network in training: with its optimizer, loss, averages and schedule."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline.errors import is_out_of_memory
from pathline.training.device import Precision
from pathline.training.distributed import always_sync, mean, placed, whole
from pathline.training.ema import Ema
from pathline.types import Batch

Lane = tuple[Batch, torch.Generator]
Loss = Callable[[Any, Batch, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


def lane_rng(seed: int, update: int, lane: int, device: torch.device) -> torch.Generator:
    """The random generator of one micro-batch, a function of its place alone.

    lane = micro-batch × world size + rank, so two processes get the numbers that one gets with
    two accumulated micro-batches, and a resumed run those of an uninterrupted one.
    """
    digest = hashlib.blake2b(f"{seed}/{update}/{lane}".encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


@dataclass
class Player:
    """A network in training. Saved: weights, optimizer state, averages, loss scale.

    Gradients are cleared before each update, so those that the loss of another player leaves in
    this network do not count. Such a loss calls `network`, not `forward`, which belongs to the
    player's own backward pass.
    """

    name: str
    network: nn.Module  # holds the weights
    forward: Callable[..., Any]  # the network as its loss calls it: compiled or wrapped
    optimizer: torch.optim.Optimizer
    loss: Loss
    rate: Callable[[int], float]  # factor of the learning rate at an update
    precision: Precision
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    emas: Sequence[Ema] = ()
    every: int = 1  # it is updated at every n-th update of the run
    begin: int = 0  # first update of the run at which it is updated
    # Whether gradients are all-reduced in this backward pass: False for all but the last lane.
    gradient_sync: Callable[[bool], AbstractContextManager] = always_sync
    base_rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def is_due(self, n: int) -> bool:
        """Whether it is updated at update n of the run, counted from 0."""
        return n >= self.begin and n % self.every == 0


class Update(NamedTuple):
    """What one update did; tensors stay on the device until a hook reads them."""

    loss: Tensor
    terms: dict[str, Tensor]
    norm: Tensor  # of the whole gradient, before clipping
    taken: bool  # the optimizer stepped
    fault: str  # why it did not, in words; empty when only the loss scale was too high


def update(player: Player, lanes: Sequence[Lane], n: int) -> Update:
    """One optimizer step on the mean loss of the lanes, unless loss or gradient is not finite.

    n: the update's number from 0. The finiteness test is the update's one read from the device.
    """
    # The rate is set from the update's number alone, so a resumed run needs no scheduler state.
    for group, rate in zip(player.optimizer.param_groups, player.base_rates, strict=True):
        group["lr"] = rate * player.rate(n)
    total, terms = _accumulate(player, lanes)
    scaler = player.precision.scaler
    if scaler:
        scaler.unscale_(player.optimizer)
    # Norm and finiteness are read together: this is the one wait for the device.
    gradients = [p.grad for p in player.network.parameters() if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    finite_loss, finite = torch.stack([total.isfinite(), (total + norm).isfinite()]).tolist()
    if finite and player.clip:
        torch.nn.utils.clip_grads_with_norm_(player.network.parameters(), player.clip, norm)
    # Under fp16 an overflow is expected now and then: the scaler lowers its scale and goes on.
    bad = [] if finite else _bad_gradients(player)
    overflow = scaler is not None and finite_loss and bool(bad) and scaler.get_scale() > 1
    fault = "" if finite or overflow else _fault(finite_loss, terms, bad)
    _step(player, finite, bool(bad), n)
    return Update(total, terms, norm, finite, fault)


def _accumulate(player: Player, lanes: Sequence[Lane]) -> tuple[Tensor, dict[str, Tensor]]:
    player.optimizer.zero_grad(set_to_none=True)
    totals, terms = [], []
    for remaining, (batch, rng) in zip(range(len(lanes))[::-1], lanes, strict=True):
        # Gradients are reduced over the ranks once, in the last lane's backward pass.
        with player.gradient_sync(remaining == 0):
            with player.precision.autocast():
                value, parts = player.loss(player.forward, batch, rng)
            # Micro-batches are of one size, so the mean of their losses is that of the batch.
            share = value / len(lanes)
            (player.precision.scaler.scale(share) if player.precision.scaler else share).backward()
        totals.append(share.detach())
        terms.append(parts)
    # Means over the lanes, then over the ranks, in one collective.
    names = list(terms[0])
    columns = [torch.stack([part[name] for part in terms]).mean() for name in names]
    total, *means = mean(torch.stack([torch.stack(totals).sum(), *columns])).unbind()
    return total, dict(zip(names, means, strict=True))


def _step(player: Player, finite: bool, has_bad_gradients: bool, n: int) -> None:
    scaler = player.precision.scaler
    # A skipped update changes no average either. The scaler alone would step on finite gradients
    # of a loss that is not finite.
    if finite:
        scaler.step(player.optimizer) if scaler else player.optimizer.step()
        for ema in player.emas:
            ema.update(player.network, n)
    # Only gradients speak of the loss scale: other faults leave it, and the count until it grows.
    if scaler:
        scaler.update(None if finite or has_bad_gradients else scaler.get_scale())


def _bad_gradients(player: Player) -> list[str]:
    """Names of the parameters whose gradient is not finite."""
    parameters = player.network.named_parameters()
    return [n for n, p in parameters if p.grad is not None and not p.grad.isfinite().all()]


def _fault(finite_loss: bool, terms: dict[str, Tensor], bad_gradients: Sequence[str]) -> str:
    if not finite_loss:
        bad = [name for name, value in terms.items() if not value.isfinite()]
        return f"the loss is not finite (terms: {', '.join(bad) or 'none alone'})"
    first = bad_gradients[0] if bad_gradients else "its norm"
    return f"the gradient is not finite (first in {first})"


def tensors_of(player: Player) -> dict[str, dict[str, Tensor]]:
    """Everything of a player that a checkpoint keeps, by file: weights, averages, moments."""
    moments = {
        f"{name}/{key}": value
        for name, p in player.network.named_parameters()
        for key, value in player.optimizer.state.get(p, {}).items()
    }
    averages = {f"{player.name}-{ema.name}": ema.state() for ema in player.emas}
    weights = dict(player.network.state_dict())
    return {player.name: weights, **averages, f"{player.name}-optimizer": moments}


def state_of(player: Player) -> dict[str, Any]:
    """The numbers of a player that are no tensors."""
    return {"scaler": player.precision.scaler.state_dict() if player.precision.scaler else None}


def restore(player: Player, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Load what `tensors_of` and `state_of` returned. Raises ValueError naming what is missing.

    tensors: whole, on any device, the same on every rank, whatever the strategy that saved them.
    """
    # Weights and averages are copied into tensors that exist, which have device and sharding.
    live = player.network.state_dict()
    with _naming(f"the weights of {player.name}"):
        weights = {
            name: placed(value, live[name]) if name in live else value
            for name, value in tensors[player.name].items()
        }
        player.network.load_state_dict(weights)
    for ema in player.emas:
        with _naming(f"the average {ema.name} of {player.name}"):
            saved, average = tensors[f"{player.name}-{ema.name}"], ema.state()
            ema.restore({name: placed(saved[name], average[name]) for name in average})
    with _naming(f"the optimizer state of {player.name}"):
        moments = tensors[f"{player.name}-optimizer"]
    _restore_optimizer(player, moments)
    if player.precision.scaler and state.get("scaler"):
        player.precision.scaler.load_state_dict(state["scaler"])


def _restore_optimizer(player: Player, saved: Mapping[str, Tensor]) -> None:
    """Moments go to their parameter's device, sharded as it is if they have its shape.

    Step counters (0-dim) go there too where the optimizer is fused or capturable; others read
    them on the CPU (torch/optim/optimizer.py, _process_value_according_to_param_policy).
    """
    live = dict(player.network.named_parameters())
    groups = {p: group for group in player.optimizer.param_groups for p in group["params"]}
    # Moments from before must not survive for parameters that have none saved.
    player.optimizer.state.clear()
    for key, value in saved.items():
        name, kind = key.rsplit("/", 1)
        with _naming(f"the optimizer state of {name}"):
            p = live[name]
            on_device = groups[p].get("fused") or groups[p].get("capturable") or value.dim() > 0
            if value.dim() > 0 and value.shape == p.shape:
                value = placed(value, p)
            player.optimizer.state[p][kind] = value.to(p.device) if on_device else value.cpu()


@contextlib.contextmanager
def _naming(what: str):
    try:
        yield
    except (KeyError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The checkpoint does not fit this run: {what}: {reason} Were settings of the network, "
            "the optimizer or train.ema changed? They can't be, on resume."
        ) from None
