"""The sampling order: pure functions of the seed and of the number of images trained on so far.

`batch_rows` is for pictures of one size, `bucket_batches` for those of several.

That number, the cursor, is the whole state: resuming computes the order again, ranks slice the
same list, and nothing depends on workers or on a random generator's version, for the order is a
sort by hash.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
ORDER, COIN, CHOICE, TURN = 1, 2, 3, 4  # uses of the hash, independent of one another


class BucketBatch(NamedTuple):
    """Rows of one bucket, and how often each of them came before."""

    rows: Int64[np.ndarray, " n"]
    epochs: Int64[np.ndarray, " n"]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " n"]:
    """The rows 0 … count − 1 as they come in this epoch. Read-only."""
    keys = _hash(seed, ORDER, np.uint64(epoch), np.arange(count, dtype=np.uint64))
    rows = np.argsort(keys, kind="stable").astype(np.int64)
    rows.setflags(write=False)
    return rows


def batch_rows(
    cursor: int, batch: int, *, seed: int, count: int, rank: int = 0, world: int = 1
) -> Int64[np.ndarray, " n"]:
    """This rank's rows of the global batch that begins at image number `cursor`.

    Batches run on over the end of an epoch: none is short, no row is left out or comes twice in an
    epoch. The ranks' slices put one after the other are the same for every world size.
    """
    share = _share(batch, rank, world)
    if count < 1:
        raise ValueError(f"an epoch of {count} pictures has no rows; the data needs at least one")
    order_of = partial(epoch_order, seed, count=count)
    return _rows_at(cursor + rank * share, share, count=count, order_of=order_of).rows


def _rows_at(
    start: int, share: int, *, count: int, order_of: Callable[[int], Int64[np.ndarray, " m"]]
) -> BucketBatch:
    """`share` rows from position `start` on, and the epoch of each.

    Positions count on over epochs of `count` rows, each in the order of its number.
    """
    epochs, places = np.divmod(np.arange(start, start + share), count)
    rows = np.empty(share, np.int64)
    for epoch in np.unique(epochs):
        mask = epochs == epoch
        rows[mask] = order_of(int(epoch))[places[mask]]
    return BucketBatch(rows, epochs)


def repeat_rows(
    rows: Int64[np.ndarray, " n"], repeats: Sequence[int] | None
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The rows as often as an epoch has each, and the number 0, 1 … of each among its copies.

    repeats: of every row of the data, by its number; None: all once.
    """
    if repeats is None:
        return rows, np.zeros_like(rows)
    counts = np.asarray(repeats, np.int64)[rows]
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), np.arange(counts.sum()) - begins


def bucket_batches(
    bucket: Int64[np.ndarray, " n"], batch: int, *, seed: int
) -> Callable[..., BucketBatch]:
    """The order of pictures in buckets: a function (cursor, rank=0, world=1) -> BucketBatch.

    bucket: of each row. Update number cursor // batch takes `batch` rows of one bucket, the same
    one on every rank; the ranks' slices one after the other are the same for every world size. A
    bucket's rows come as in `batch_rows`: none a second time before all of them came once, and
    batches run on over the end. So a bucket smaller than the batch shows its pictures several times
    in one update. In a cycle of updates (`cycle`) every row comes equally often, exactly; at any
    moment within it the share of a bucket's updates that were taken is that of the cycle, but for
    one or two updates.
    """
    kinds, counts = np.unique(bucket, return_counts=True)
    if not len(bucket) or batch < 1:
        raise ValueError(f"{len(bucket)} pictures in batches of {batch}: wanted at least one")
    members = [np.flatnonzero(bucket == kind) for kind in kinds]
    visits = cycle(counts, batch)
    schedule = lru_cache(maxsize=2)(lambda number: _schedule(visits, seed, number))

    # Two epochs of each bucket are in use where a batch runs over the end of one.
    @lru_cache(maxsize=2 * len(kinds))
    def order_of(kind: int, epoch: int) -> Int64[np.ndarray, " m"]:
        rows = members[kind]
        keys = _hash(seed, ORDER, np.uint64(epoch), rows.astype(np.uint64))
        return rows[np.argsort(keys, kind="stable")]

    def next_batch(cursor: int, rank: int = 0, world: int = 1) -> BucketBatch:
        share = _share(batch, rank, world)
        # The update's place in the cycle gives the bucket and how often it came before.
        number, place = divmod(cursor // batch, int(visits.sum()))
        kind_of, visit_of = schedule(number)
        kind = int(kind_of[place])
        first = (number * int(visits[kind]) + int(visit_of[place])) * batch + rank * share
        # Rows by their position in the bucket's own epochs.
        count = len(members[kind])
        return _rows_at(first, share, count=count, order_of=partial(order_of, kind))

    return next_batch


def cycle(counts: Int64[np.ndarray, " k"], batch: int) -> Int64[np.ndarray, " k"]:
    """The updates of each bucket in the shortest run in which every picture comes equally often.

    That is `times` epochs, `times` being the least number for which batches fit into each bucket's
    pictures × times; it divides the batch.
    """
    times = math.lcm(*(batch // math.gcd(batch, int(count)) for count in counts))
    return counts * times // batch


def _schedule(
    visits: Int64[np.ndarray, " k"], seed: int, number: int
) -> tuple[Int64[np.ndarray, " u"], Int64[np.ndarray, " u"]]:
    """For each update of a cycle its bucket, and how many of that bucket came before it.

    Each bucket's updates are spread evenly over the cycle, each somewhere within its share of it.
    """
    kinds = np.repeat(np.arange(len(visits)), visits)
    begins = np.repeat(np.cumsum(visits) - visits, visits)
    visit = np.arange(len(kinds)) - begins
    # Visit v of n is somewhere in [v / n, (v + 1) / n) of the cycle, so that buckets mix.
    jitter = _uniform(seed, TURN, number, np.arange(len(kinds)))
    order = np.argsort((visit + jitter) / visits[kinds], kind="stable")
    return kinds[order], visit[order]


def _share(batch: int, rank: int, world: int) -> int:
    if batch % world or not 0 <= rank < world:
        raise ValueError(
            f"a global batch of {batch} on rank {rank} of {world}: wanted a multiple of {world} "
            f"and a rank in 0 … {world - 1}"
        )
    return batch // world


def coins(
    seed: int, epoch: int | np.ndarray, rows: Int64[np.ndarray, " n"], share: float
) -> Bool[np.ndarray, " n"]:
    """For each row, true in `share` of the cases; the same for a (seed, epoch, row) everywhere.

    epoch: one number, or one for each row.
    """
    return _uniform(seed, COIN, epoch, rows) < share


def caption_numbers(
    seed: int, epoch: int | np.ndarray, rows: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """For each row a number in [0, 1), to choose among its captions; determined as `coins` are."""
    return _uniform(seed, CHOICE, epoch, rows)


def _uniform(seed: int, use: int, epoch: int | np.ndarray, rows: np.ndarray) -> np.ndarray:
    keys = _hash(seed, use, np.asarray(epoch).astype(np.uint64), rows.astype(np.uint64))
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
