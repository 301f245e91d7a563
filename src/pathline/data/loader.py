"""Which picture comes when: pure functions of the seed and of how many were seen.

The cursor is one integer, images seen. Resuming recomputes, ranks slice the same list, and nothing
of it depends on workers or on a random generator's version: the order is a sort by hash.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt64

MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
ORDER, COIN = 1, 2  # uses of the hash, so that one never tells of the other


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " n"]:
    """The rows 0 … count − 1 as they come in this epoch. Read-only."""
    keys = _hash(seed, ORDER, np.uint64(epoch), np.arange(count, dtype=np.uint64))
    found = np.argsort(keys, kind="stable").astype(np.int64)
    found.setflags(write=False)
    return found


def rows(
    cursor: int, batch: int, *, seed: int, count: int, rank: int = 0, world: int = 1
) -> Int64[np.ndarray, " n"]:
    """This rank's rows of the global batch that begins at image number `cursor`.

    Batches run on over the end of an epoch: none is short, no row is left out or comes twice in an
    epoch. The ranks' slices put one after the other are the same for every world size.
    """
    if batch % world or not 0 <= rank < world:
        raise ValueError(
            f"a global batch of {batch} on rank {rank} of {world}: wanted a multiple of {world} "
            f"and a rank in 0 … {world - 1}"
        )
    if count < 1:
        raise ValueError(f"an epoch of {count} pictures has no rows; the data needs at least one")
    share = batch // world
    start = cursor + rank * share
    epochs, places = np.divmod(np.arange(start, start + share), count)
    if share and epochs[0] == epochs[-1]:
        return order(seed, int(epochs[0]), count)[places]
    found = np.empty(share, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        found[here] = order(seed, int(epoch), count)[places[here]]
    return found


def coins(
    seed: int, epoch: int | np.ndarray, rows: Int64[np.ndarray, " n"], share: float
) -> Bool[np.ndarray, " n"]:
    """For each row, true in `share` of the cases; the same for a (seed, epoch, row) everywhere.

    epoch: one number, or one for each row.
    """
    keys = _hash(seed, COIN, np.asarray(epoch).astype(np.uint64), rows.astype(np.uint64))
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def _hash(
    seed: int, use: int, epoch: np.ndarray | np.uint64, rows: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """splitmix64's finaliser (Vigna, prng.di.unimi.it/splitmix64.c) over the parts in turn."""
    state = np.full(rows.shape, seed & (2**64 - 1), np.uint64)
    for part in (np.uint64(use), epoch, rows):
        state = (state ^ part) + MIX[0]  # arrays wrap around silently, as the hash wants
        state = (state ^ (state >> np.uint64(30))) * MIX[1]
        state = (state ^ (state >> np.uint64(27))) * MIX[2]
        state = state ^ (state >> np.uint64(31))
    return state
