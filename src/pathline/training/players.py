"""A player is a network that learns: with its optimizer, loss, averages and how often it moves."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline.training.device import Precision
from pathline.training.distributed import mean, placed, whole
from pathline.training.ema import Ema
from pathline.types import Batch

Lane = tuple[Batch, torch.Generator]
Loss = Callable[[Any, Batch, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


def _alone(_: bool) -> AbstractContextManager:
    return nullcontext()


@dataclass
class Player:
    """State that is saved: the weights, the optimizer's moments, the averages, the scaler."""

    name: str
    network: nn.Module  # has the weights
    forward: Callable[..., Any]  # the network as it is called: compiled or wrapped
    optimizer: torch.optim.Optimizer
    loss: Loss
    rate: Callable[[int], float]  # share of the learning rate at an update
    precision: Precision
    clip: float = 0.0  # greatest gradient norm; 0: none
    emas: Sequence[Ema] = ()
    every: int = 1
    meeting: Callable[[bool], AbstractContextManager] = _alone  # do gradients meet in this pass?
    base_rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]


class Update(NamedTuple):
    """What one update did; tensors stay on the device until somebody reads them."""

    loss: Tensor
    terms: dict[str, Tensor]
    norm: Tensor  # of the whole gradient, before clipping
    taken: bool  # the optimizer stepped
    fault: str  # why it did not, in words; empty when only the loss scale was too high


def update(player: Player, lanes: Sequence[Lane], n: int) -> Update:
    """One optimizer step on the mean loss of the lanes, unless loss or gradient is not finite.

    n: the update's number from 0. The finiteness test is the update's one read from the device.
    """
    for group, rate in zip(player.optimizer.param_groups, player.base_rates, strict=True):
        group["lr"] = rate * player.rate(n)
    total, terms = _accumulate(player, lanes)
    scaler = player.precision.scaler
    if scaler:
        scaler.unscale_(player.optimizer)
    gradients = [p.grad for p in player.network.parameters() if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    finite_loss, finite = torch.stack([total.isfinite(), (total + norm).isfinite()]).tolist()
    if finite and player.clip:
        torch.nn.utils.clip_grads_with_norm_(player.network.parameters(), player.clip, norm)
    overflow = scaler is not None and finite_loss and not finite and scaler.get_scale() > 1
    fault = "" if finite or overflow else _fault(player, finite_loss, terms)
    _step(player, finite, n)
    return Update(total, terms, norm, finite, fault)


def _accumulate(player: Player, lanes: Sequence[Lane]) -> tuple[Tensor, dict[str, Tensor]]:
    player.optimizer.zero_grad(set_to_none=True)
    totals, terms = [], []
    for left, (batch, rng) in zip(range(len(lanes))[::-1], lanes, strict=True):
        with player.meeting(left == 0):
            with player.precision.autocast():
                value, parts = player.loss(player.forward, batch, rng)
            share = value / len(lanes)
            (player.precision.scaler.scale(share) if player.precision.scaler else share).backward()
        totals.append(share.detach())
        terms.append(parts)
    names = list(terms[0])
    columns = [torch.stack([part[name] for part in terms]).mean() for name in names]
    total, *means = mean(torch.stack([torch.stack(totals).sum(), *columns])).unbind()
    return total, dict(zip(names, means, strict=True))


def _step(player: Player, finite: bool, n: int) -> None:
    if player.precision.scaler:
        player.precision.scaler.step(player.optimizer)
        player.precision.scaler.update()
    elif finite:
        player.optimizer.step()
    if finite:
        for ema in player.emas:
            ema.update(player.network, n)


def _fault(player: Player, finite_loss: bool, terms: dict[str, Tensor]) -> str:
    if not finite_loss:
        bad = [name for name, value in terms.items() if not value.isfinite()]
        return f"the loss is not finite (terms: {', '.join(bad) or 'none alone'})"
    bad = [
        name
        for name, p in player.network.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    return f"the gradient is not finite (first in {bad[0] if bad else 'its norm'})"


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
    """Put back what `tensors_of` and `state_of` gave. Raises ValueError naming what is missing.

    tensors are whole ones, the same on every rank, whatever the strategy that wrote them.
    """
    live = player.network.state_dict()
    with _named(f"the weights of {player.name}"):
        weights = {
            name: placed(value, live[name]) if name in live else value
            for name, value in tensors[player.name].items()
        }
        player.network.load_state_dict(weights)
    for ema in player.emas:
        with _named(f"the average {ema.name} of {player.name}"):
            saved, mine = tensors[f"{player.name}-{ema.name}"], ema.state()
            ema.restore({name: placed(saved[name], mine[name]) for name in mine})
    live = dict(player.network.named_parameters())
    player.optimizer.state.clear()
    for key, value in tensors[f"{player.name}-optimizer"].items():
        name, kind = key.rsplit("/", 1)
        with _named(f"the optimizer state of {name}"):
            p = live[name]
            fits = value.shape == p.shape and value.dim() > 0
            player.optimizer.state[p][kind] = placed(value, p) if fits else value.to(p.device)
    if player.precision.scaler and state.get("scaler"):
        player.precision.scaler.load_state_dict(state["scaler"])


@contextlib.contextmanager
def _named(what: str):
    try:
        yield
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The checkpoint does not fit this run: {what}: {reason} Were settings of the network, "
            "the optimizer or train.ema changed? They can't be, on resume."
        ) from None
