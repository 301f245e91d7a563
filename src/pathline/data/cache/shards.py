"""Shards: safetensors files of rows, named by their content, so that a file is whole or absent.

The id of a row is a digest of all that it was made from. A shard's header lists the ids of its rows
and its name is a digest of them, so work that was interrupted is found again by listing the files.

A row is a dict of tensors. `tokens` differ in length from row to row and are stored one after the
other with their offsets; all other tensors are stacked.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pathline.files import digest, write_whole

HEADER = "pathline"  # a single entry: safetensors writes several in any order
ENDING = ".safetensors"
SHARD_NAME = re.compile(r"[.]?[\w-]+-[0-9a-f]{16}[.]safetensors([.]\d+[.]tmp)?")
TOKENS, OFFSETS = "tokens", "offsets"
Row = dict[str, Tensor]


class Shard(NamedTuple):
    """A whole file of rows."""

    file: str
    ids: tuple[str, ...]
    bytes: int


def row_id(*sources: Any) -> str:
    """A short digest of all that a row is made from."""
    return digest(json.dumps(sources))[:32]


def file_name(prefix: str, ids: Sequence[str]) -> str:
    """The file of these rows."""
    return f"{prefix}-{digest(' '.join(ids))[:16]}{ENDING}"


def renamed(file: str, ids: Sequence[str]) -> str:
    """The file of these rows, which replace those that `file` was planned for."""
    return file_name(file.rpartition("-")[0], ids)


def is_shard(file: Path) -> bool:
    """Whether a file has the name of a shard, or of one whose writing was interrupted."""
    return bool(SHARD_NAME.fullmatch(file.name))


def save(file: Path, ids: Sequence[str], rows: Sequence[Row]) -> Shard:
    """Write a shard; the file appears when it is whole."""
    tensors = {key: value.contiguous() for key, value in pack(rows).items()}
    header = {HEADER: json.dumps({"ids": list(ids)})}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda path: save_file(tensors, path, header))
    return Shard(file.name, tuple(ids), file.stat().st_size)


def inventory(folder: Path) -> tuple[list[Shard], list[str]]:
    """The whole shards of a folder by name, and the names of the damaged ones."""
    whole, damaged = [], []
    for file in sorted(folder.glob(f"*{ENDING}")):
        try:
            with safe_open(file, "pt") as opened:
                ids = json.loads((opened.metadata() or {})[HEADER])["ids"]
        except (SafetensorError, KeyError, ValueError, OSError):
            damaged.append(file.name)
            continue
        whole.append(Shard(file.name, tuple(ids), file.stat().st_size))
    return whole, damaged


def places(shards: Iterable[Shard]) -> dict[str, tuple[int, int]]:
    """Row id -> (number of its shard, row in it)."""
    return {
        row: (number, position)
        for number, shard in enumerate(shards)
        for position, row in enumerate(shard.ids)
    }


def tensors(file: Path, *keys: str) -> dict[str, Tensor]:
    """The tensors of a shard, memory-mapped; only those named by `keys`, if any."""
    with safe_open(file, "pt") as opened:
        present = set(opened.keys())
        return {key: opened.get_tensor(key) for key in keys or sorted(present) if key in present}


def pack(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows as the tensors of a shard."""
    table = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if key != TOKENS}
    if TOKENS in rows[0]:
        lengths = torch.tensor([0, *(len(row[TOKENS]) for row in rows)])
        table[TOKENS] = torch.cat([row[TOKENS] for row in rows])
        table[OFFSETS] = lengths.cumsum(0)
    return table


def unpack(table: Mapping[str, Tensor], position: int) -> Row:
    """One row of a shard's tensors."""
    row = {key: column[position] for key, column in table.items() if key not in (TOKENS, OFFSETS)}
    if TOKENS in table:
        begin, end = table[OFFSETS][position : position + 2].tolist()
        row[TOKENS] = table[TOKENS][begin:end]
    return row
