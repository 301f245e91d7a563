"""One run in many processes: ranks, all-reduced gradients, sharded weights.

All collective functions are in this file; with strategy "none" they do nothing. Processes are
started by torchrun, use gloo on CPU and nccl on CUDA, and differ in their rank alone.
"""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

BACKENDS = "cpu:gloo,cuda:nccl"


class World(NamedTuple):
    """The processes of a run, as one of them knows them."""

    strategy: str = "none"
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    aside: ProcessGroup | None = None  # for saving in the background
    wrappers: Sequence[Any] = ()  # of ddp: they must be freed before the process group


ALONE = World()


class Wrapped(NamedTuple):
    """A network as a strategy calls it."""

    forward: Callable[..., Any]
    # Whether gradients are all-reduced in this backward pass (no_sync otherwise).
    gradient_sync: Callable[[bool], AbstractContextManager]


def launched_rank() -> int:
    """Rank of this process among those that torchrun started, before they have joined."""
    return int(os.environ.get("RANK", "0"))


def launched_size() -> int:
    """Number of processes that torchrun started, before they have joined; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def strategy_of_launch() -> str:
    """How processes share work that is no training: "ddp" among several, else "none"."""
    return "ddp" if launched_size() > 1 else "none"


@contextmanager
def joined(
    strategy: str, device: torch.device, patience: timedelta | None = None
) -> Iterator[tuple[World, torch.device]]:
    """This process's world and device; the process group is destroyed at the end.

    patience: timeout of collective functions; None: torch's default.
    Raises ValueError if the strategy is impossible on this machine, or as it was started.
    """
    launched = "WORLD_SIZE" in os.environ
    size = launched_size()
    if strategy == "none":
        if size > 1:
            raise ValueError(
                f"train.strategy=none is wrong because {size} processes were started. "
                "Set train.strategy=ddp (or fsdp2), or start one process."
            )
        yield ALONE, device
        return
    # The device comes first: NCCL binds to the current one when the group begins.
    device = _device_of_rank(device)
    if launched:
        backend = BACKENDS if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=patience)
    else:  # a run of many processes that is resumed in one
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    wrappers: list[Any] = []
    try:
        mesh = init_device_mesh(device.type, (size,)) if strategy == "fsdp2" else None
        # Checkpoints have a group of their own: they are sent while training communicates.
        aside: Any = dist.new_group(backend="gloo") if strategy == "fsdp2" else None
        yield World(strategy, dist.get_rank(), size, mesh, aside, wrappers), device
    finally:
        # A DDP that outlives the group frees it under the interpreter's lock and waits for gloo's
        # threads, one of which may be waiting for that lock to free a tensor: a deadlock.
        wrappers.clear()
        gc.collect()
        dist.destroy_process_group()


def _device_of_rank(device: torch.device) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"train.strategy is wrong because {device} runs one process. Set train.strategy=none."
        )
    if device.type == "cpu":
        return device
    # Counted on this machine: the rank over all machines would name GPUs that are not here.
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= gpus:
        raise ValueError(
            f"--procs is wrong because process {local + 1} of this machine has no GPU: there are "
            f"{gpus}. Start at most as many processes as GPUs, or set --device cpu."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def always_sync(_: bool) -> AbstractContextManager:
    """The gradient_sync of a network that nothing is exchanged for."""
    return nullcontext()


def wrap(network: nn.Module, world: World, *, precision: str, compiled: bool) -> Wrapped:
    """The network wrapped for its strategy; under fsdp2 its weights are sharded in place."""
    if world.strategy == "none":
        return Wrapped(torch.compile(network) if compiled else network, always_sync)
    if world.strategy == "ddp":
        return _ddp(network, world.wrappers, compiled=compiled)
    sharded: Any = shard(network, world, precision=precision, compiled=compiled)

    # A switch rather than a context: it stays, so every micro-batch sets it.
    def gradient_sync(last: bool) -> AbstractContextManager:
        sharded.set_requires_gradient_sync(last)
        return nullcontext()

    return Wrapped(sharded, gradient_sync)


def _ddp(network: nn.Module, wrappers: Any, *, compiled: bool) -> Wrapped:
    """DDP, referenced by `wrappers` alone."""
    index, ddp = len(wrappers), DistributedDataParallel(network)
    wrappers.append((ddp, torch.compile(ddp) if compiled else ddp))
    return Wrapped(
        lambda *inputs, **options: wrappers[index][1](*inputs, **options),
        lambda last: nullcontext() if last else wrappers[index][0].no_sync(),
    )


def shard(
    network: nn.Module, world: World, *, precision: str = "fp32", compiled: bool = False
) -> FSDPModule:
    """Shard every block (each member of a ModuleList) and the rest over the ranks, in place.

    Blocks gather bf16 copies under bf16; gradients are reduced in float32. Weights are resharded
    after each forward pass, the root's too, so that averages and checkpoints read shards.
    """
    if precision == "fp16":
        raise ValueError(
            "train.precision=fp16 is wrong because fsdp2 has no loss scaler. Set "
            "train.precision=bf16 or fp32, or train.strategy=ddp."
        )
    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(half, torch.float32 if half else None, cast_forward_inputs=False)
    # Blocks are gathered one at a time: the memory of full weights is that of one block.
    blocks = [
        block for part in network.modules() if isinstance(part, nn.ModuleList) for block in part
    ]
    for block in blocks:
        if compiled:
            block.compile()
        fully_shard(block, mesh=world.mesh, mp_policy=policy)
    # The root comes last and takes the parameters that no block holds.
    return fully_shard(network, mesh=world.mesh, reshard_after_forward=True)


def whole(x: Tensor) -> Tensor:
    """The full tensor of its shards; plain tensors as they are. Collective."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def placed(x: Tensor, live: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, on the device of `live` and sharded as it is."""
    x = x.to(live.device)
    if not isinstance(live, DTensor):
        return x
    # Every rank has the whole tensor: each takes its shard of it, and nothing is sent.
    return distribute_tensor(x, live.device_mesh, live.placements, src_data_rank=None)


def mean(values: Tensor) -> Tensor:
    """The mean over ranks. Collective; itself without processes."""
    if not dist.is_initialized():
        return values
    # all_reduce writes in place; the caller's tensor stays as it is.
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


def agreed(flag: bool) -> bool:
    """Whether the flag is set on any rank; on CPU, so that no GPU is waited for. Collective."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def place() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) where there is one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def broadcast(value: Any) -> Any:
    """The value of rank 0. Collective."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_first_rank(ask: Callable[[], Any]) -> Any:
    """The result of `ask` on rank 0, which alone calls it. Collective."""
    return broadcast(ask() if place()[0] == 0 else None)


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, by rank. Collective."""
    if not dist.is_initialized():
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
