"""Shards: safetensors files of rows, named by what they hold, so that a file is whole or not there.

A row's identity is a digest of all that made it. A shard's header lists the identities of its rows,
and its name is a digest of them; so work that was stopped is found again by looking at the files.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HEADER = "pathline"  # one entry alone: the library writes several in any order
ENDING = ".safetensors"

OWN = re.compile(r"[.]?[\w-]+-[0-9a-f]{16}[.]safetensors([.]\d+[.]tmp)?")


class Shard(NamedTuple):
    """A whole file of rows."""

    file: str
    ids: tuple[str, ...]
    bytes: int


def identity(*made_by: Any) -> str:
    """A short digest of all that makes a row what it is."""
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:32]


def name(prefix: str, ids: Sequence[str]) -> str:
    """The file of these rows."""
    return f"{prefix}-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:16]}{ENDING}"


def renamed(file: str, ids: Sequence[str]) -> str:
    """The file of these rows instead of those it was planned for; the same for the same rows."""
    return name(file.rpartition("-")[0], ids)


def is_own(file: Path) -> bool:
    """Whether a file bears the name of a shard or of one that was begun."""
    return bool(OWN.fullmatch(file.name))


def save(file: Path, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Write a shard; it is there when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    header = {HEADER: json.dumps({"ids": list(ids)})}
    save_file({key: value.contiguous() for key, value in tensors.items()}, fresh, header)
    os.replace(fresh, file)


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


def plan(
    needed: Sequence[str], there: Sequence[Shard], most: int
) -> tuple[list[Shard], list[list[str]]]:
    """Shards to keep, and rows to write: in the order needed, at most `most` a shard.

    Kept is a shard all of whose rows are needed. The others' rows are among those to write, and so
    are those of shards less than half full, once anything is to be written.
    """
    order = {one: number for number, one in enumerate(dict.fromkeys(needed))}
    kept, covered = [], set[str]()
    for shard in sorted(there, key=lambda shard: (-len(shard.ids), shard.file)):
        if all(one in order and one not in covered for one in shard.ids):
            kept.append(shard)
            covered.update(shard.ids)
    if len(covered) < len(order):
        kept = [shard for shard in kept if 2 * len(shard.ids) >= most]
        covered = {one for shard in kept for one in shard.ids}
    kept.sort(key=lambda shard: min(order[one] for one in shard.ids))
    rest = [one for one in order if one not in covered]
    return kept, [rest[start : start + most] for start in range(0, len(rest), most)]


def tensors(file: Path, *keys: str) -> dict[str, Tensor]:
    """The tensors of a shard, mapped from the file; all of them without `keys`."""
    with safe_open(file, "pt") as opened:
        there = set(opened.keys())
        return {key: opened.get_tensor(key) for key in keys or sorted(there) if key in there}


def replace(file: Path, text: str) -> None:
    """Write a text file; it is the old or the new one, never a part."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    fresh.write_text(text, "utf-8")
    os.replace(fresh, file)
