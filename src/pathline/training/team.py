"""The networks of a run: players, which are trained, and frozen ones; placed and rehearsed."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pathline.training.device import Precision, finish, named_precision
from pathline.training.distributed import ALONE, World, shard, wrap
from pathline.training.ema import Ema
from pathline.training.loop import Hook
from pathline.training.players import Loss, Player
from pathline.types import Batch

NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Placement(NamedTuple):
    """Where and how the networks of a run compute."""

    device: torch.device
    precision: Precision
    world: World = ALONE
    compiled: bool = False


class Team(NamedTuple):
    """Everything a method trains with."""

    players: Sequence[Player]  # updated in this order; the first is the one that is validated
    frozen: Mapping[str, nn.Module] = NOTHING  # teacher, reference: in eval mode, never saved
    validation: Mapping[str, Loss] = NOTHING  # losses of the first player, by name
    hooks: Sequence[Hook] = ()  # after each update, before anything is measured or saved
    tensors: Mapping[str, Mapping[str, Tensor]] = NOTHING  # further files of a checkpoint
    probe_values: Callable[[], dict[str, Tensor]] = dict  # read with the probes of the first player


def build_player(
    name: str,
    network: nn.Module,
    loss: Loss,
    placement: Placement,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    rate: Callable[[int], float],
    emas: Sequence[Callable[[nn.Module], Ema]] = (),
    clip: float = 0.0,
    every: int = 1,
    begin: int = 0,
) -> Player:
    """A player on its device, wrapped for the run's strategy.

    Optimizer and averages are built last, for sharding replaces the parameters.
    """
    device, precision, world, compiled = placement
    # On the device before wrapping: DDP and FSDP read the parameters' device.
    network.to(device)
    wrapped = wrap(network, world, precision=precision.name, compiled=compiled)
    return Player(
        name=name,
        network=network,
        forward=wrapped.forward,
        optimizer=optimizer(network),
        loss=loss,
        rate=rate,
        precision=precision,
        clip=clip,
        emas=[build(network) for build in emas],
        every=every,
        begin=begin,
        gradient_sync=wrapped.gradient_sync,
    )


def freeze(network: nn.Module, placement: Placement) -> Callable[..., Any]:
    """Put a network that is not trained where the run computes; returns it as losses call it.

    Its parameters need no gradient; gradients of its inputs pass through. Under fsdp2 it is
    sharded like a player; under ddp every rank has the whole of it.
    """
    device, precision, world, compiled = placement
    network.requires_grad_(False).eval().to(device)
    if world.strategy == "fsdp2":
        return shard(network, world, precision=precision.name, compiled=compiled)  # type: ignore[return-value]
    return torch.compile(network) if compiled else network


@torch.no_grad()
def rehearse(team: Team, batch: Batch) -> None:
    """Every loss of the run, on a batch of few images, so that errors come before a run is written.

    Losses may change with the share of the training that is over: its start and end are tried.
    """
    # The module itself is called, not its DDP wrapper, which would wait for a backward pass.
    rng = torch.Generator(batch.x1.device).manual_seed(0)
    for player in team.players:
        with player.precision.autocast():
            for done in (0.0, 1.0):
                player.loss(player.network, batch._replace(done=done), rng)
    first = team.players[0]
    with first.precision.autocast():
        for loss in list(team.validation.values())[:1]:
            loss(first.network, batch, rng)


def measured_precision(team: Team, batch: Batch, *, gain: float = 1.2) -> Precision:
    """fp32, or bf16 where all forward and backward passes of a run are `gain` times faster in it.

    batch: as large as in training. Small networks spend much of their time in casts, so that the
    rate of large matrix products says nothing of them. Neither weights nor random numbers of the
    training change; takes about eight passes.
    """
    seconds = {"fp32": float("inf"), "bf16": float("inf")}
    with torch.random.fork_rng(devices=[]):
        # In turns, so that another program's load meets both; the first round warms up.
        for turn, name in product(range(4), seconds):
            duration = _pass_seconds(team, batch, named_precision(name, batch.x1.device))
            if turn:
                seconds[name] = min(seconds[name], duration)
    chosen = "bf16" if seconds["fp32"] > gain * seconds["bf16"] else "fp32"
    times = ", ".join(f"{name} {1000 * value:,.0f} ms" for name, value in seconds.items())
    return named_precision(chosen, batch.x1.device, f"measured for each update: {times}")


def _pass_seconds(team: Team, batch: Batch, precision: Precision) -> float:
    rng = torch.Generator(batch.x1.device).manual_seed(0)
    finish(batch.x1.device)
    start = time.perf_counter()
    for player in team.players:
        with precision.autocast():
            loss, _ = player.loss(player.network, batch, rng)
        loss.backward()
        # Gradients that reach a network of another player are not used either.
        for each in team.players:
            each.optimizer.zero_grad(set_to_none=True)
    finish(batch.x1.device)
    return time.perf_counter() - start
