"""Checkpoints of sharded runs: PyTorch's distributed checkpoint, as safetensors, in background.

Every rank writes its parts as `shards/shard-….safetensors` while training continues; a checkpoint
is sealed when all ranks are done. Names are "file stem/name", so that a part can be read alone.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_into
from torch.distributed.checkpoint.state_dict_saver import async_save

SHARDS = "shards"


def flat(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One level of names: "stem/name"."""
    return {f"{stem}/{key}": v for stem, group in tensors.items() for key, v in group.items()}


def save(
    work: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    group: ProcessGroup | None,
    done: Callable[[], None],
) -> Future:
    """Begin to write all ranks' parts under `work`; rank 0 calls `done` when all are written.

    Collective. group: of gloo and used for nothing else, so that messages in the background don't
    mix with training's. The tensors are copied before this returns. The future is over when `done`
    is, and carries its exception.
    """
    # The next update changes the weights while these copies are written.
    copies = {key: tensor.detach().clone() for key, tensor in flat(tensors).items()}
    writer = HuggingFaceStorageWriter(str(work / SHARDS), save_distributed=True)
    written = async_save(copies, storage_writer=writer, process_group=group)
    sealed: Future = Future()

    # The manifest is written only after every rank's shards are on disk.
    def settle(future: Future) -> None:
        try:
            future.result()
            if dist.get_rank() == 0:
                done()
        except CheckpointException as error:
            # An OSError of all ranks' reasons, which the saver prints while training goes on.
            reasons = {str(failure[0]) for failure in error.failures.values()}
            sealed.set_exception(OSError("; ".join(sorted(reasons))))
        except Exception as error:  # handed on to whoever waits
            sealed.set_exception(error)
        else:
            sealed.set_result(None)

    written.add_done_callback(settle)  # type: ignore[union-attr]
    return sealed


def load(files: Sequence[Path], only: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The whole tensors of the stems in `only` (of all, if empty), from shards. Not collective."""
    reader = HuggingFaceStorageReader(str(files[0].parent))
    # of these files only, whatever else is in the folder
    reader.fs.ls = lambda path: [str(file) for file in files]  # noqa: ARG005
    metadata = reader.read_metadata().state_dict_metadata
    selected = {k: m for k, m in metadata.items() if not only or k.split("/", 1)[0] in only}
    # Read whole, so that a run may continue with other processes than it was saved by.
    into = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in selected.items()}  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")  # one process reads for itself
        read_into(into, storage_reader=reader, no_dist=True)
    # Names back into the files of an unsharded checkpoint, so that both are restored alike.
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in into.items():
        stem, name = key.split("/", 1)
        tensors.setdefault(stem, {})[name] = tensor
    return tensors
