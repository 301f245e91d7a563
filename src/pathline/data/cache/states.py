"""Captions to shards of text states: each once, cut to its own length, in one flat table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pathline.data.cache import shards
from pathline.types import DTYPES, Cond

TOKENS, OFFSETS, POOLED = "tokens", "offsets", "pooled"  # tensors of a shard
ROUND = 8  # batches are padded to a multiple of this
Row = tuple[Tensor | None, Tensor | None]  # tokens [l D], pooled [P]


def write(
    folder: Path,
    chunks: Mapping[str, Sequence[str]],
    captions: Mapping[str, str],
    there: Sequence[shards.Shard],
    encode: Callable[[Sequence[str]], Cond],
    *,
    dtype: str,
    batch: int,
    tick: Callable[[int], None] = lambda _: None,
) -> None:
    """Write shards of captions: file -> identities of its rows; those in `there` are copied.

    captions: identity -> caption. Captions of one length are encoded together.
    """
    places = {one: (shard.file, row) for shard in there for row, one in enumerate(shard.ids)}
    for name, chunk in chunks.items():
        if name in {shard.file for shard in there}:
            continue
        rows = _copied(folder, {one: places[one] for one in chunk if one in places})
        todo = sorted((one for one in chunk if one not in rows), key=lambda one: len(captions[one]))
        for start in range(0, len(todo), batch):
            some = todo[start : start + batch]
            said = [captions[one] for one in some]
            rows |= dict(zip(some, trimmed(encode(said), said, dtype), strict=True))
            tick(len(some))
        shards.save(folder / name, chunk, packed([rows[one] for one in chunk]))


def trimmed(cond: Cond, captions: Sequence[str], dtype: str) -> list[Row]:
    """The rows of encoded captions without padding, as they are stored.

    Raises ValueError where a number is not finite, or where nothing but words or labels came.
    """
    if cond.tokens is None and cond.pooled is None:
        raise ValueError("This text encoder gives neither states nor a pooled vector to store.")
    parts = [cond.tokens, cond.pooled]
    parts = [None if p is None else p.detach().to("cpu", DTYPES[dtype]) for p in parts]
    tokens, pooled = parts
    for part in parts:
        fine = torch.ones(0) if part is None else torch.isfinite(part).flatten(1).all(1)
        if not fine.all():
            said = captions[int(fine.int().argmin())]
            raise ValueError(
                f"the states of {said[:60]!r} are not finite as {dtype}: store them in another "
                "dtype (--text-dtype bf16 or fp32), or see whether the encoder gives NaN."
            )
    mask = None if cond.mask is None else cond.mask.cpu()
    cut = [None] * len(captions) if tokens is None else list(tokens)
    if tokens is not None and mask is not None:
        cut = [row[kept] for row, kept in zip(tokens, mask, strict=True)]
    return list(zip(cut, [None] * len(captions) if pooled is None else list(pooled), strict=True))


def packed(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows as the tensors of a shard."""
    found = {}
    tokens = [row for row, _ in rows if row is not None]
    if tokens:
        lengths = torch.tensor([0, *(len(row) for row in tokens)])
        found |= {TOKENS: torch.cat(tokens), OFFSETS: lengths.cumsum(0)}
    pooled = [row for _, row in rows if row is not None]
    return found | ({POOLED: torch.stack(pooled)} if pooled else {})


def unpacked(table: Mapping[str, Tensor], row: int) -> Row:
    """One row of a shard's tensors."""
    tokens = pooled = None
    if TOKENS in table:
        begin, end = table[OFFSETS][row : row + 2].tolist()
        tokens = table[TOKENS][begin:end]
    if POOLED in table:
        pooled = table[POOLED][row]
    return tokens, pooled


def padded(rows: Sequence[Row]) -> Cond:
    """Rows as a float32 condition, tokens padded by zeros to the longest, rounded up."""
    pooled = [row.float() for _, row in rows if row is not None]
    cond = Cond(pooled=torch.stack(pooled) if pooled else None)
    tokens = [row for row, _ in rows if row is not None]
    if not tokens:
        return cond
    lengths = torch.tensor([len(row) for row in tokens])
    longest = -(-max(1, int(lengths.max())) // ROUND) * ROUND
    table = torch.zeros(len(tokens), longest, tokens[0].shape[1])
    for line, row in zip(table, tokens, strict=True):
        line[: len(row)] = row
    return cond._replace(tokens=table, mask=torch.arange(longest) < lengths[:, None])


def _copied(folder: Path, places: Mapping[str, tuple[str, int]]) -> dict[str, Row]:
    """Rows of other shards."""
    tables = {file: shards.tensors(folder / file) for file in {file for file, _ in places.values()}}
    return {one: unpacked(tables[file], row) for one, (file, row) in places.items()}
