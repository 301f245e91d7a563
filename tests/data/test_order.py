"""The loader: every row once an epoch, for any batch, rank, world and place to resume from."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pathline.data.order import batch_rows, bucket_batches, coins, cycle, epoch_order


def taken(count, batch, steps, start=0, world=1):
    """The rows of `steps` batches, ranks one after the other."""
    return np.concatenate([
        batch_rows(start + i * batch, batch, seed=5, count=count, rank=rank, world=world)
        for i in range(steps)
        for rank in range(world)
    ])  # fmt: skip


@given(st.integers(1, 60), st.integers(1, 40))
def test_an_epoch_takes_every_row_once_whatever_the_batch(count, batch):
    found = taken(count, batch, -(-3 * count // batch))
    for epoch in range(3):
        assert sorted(found[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(1, 50), st.integers(0, 200), st.sampled_from([1, 2, 3, 6]))
def test_any_world_size_takes_the_same_rows_in_the_same_order(count, start, world):
    one = taken(count, 6, 4, start)
    assert (taken(count, 6, 4, start, world) == one).all()


def test_resuming_anywhere_goes_on_with_the_same_rows():
    whole = taken(17, 5, 20)
    for done in range(20):
        assert (taken(17, 5, 20 - done, start=5 * done) == whole[5 * done :]).all()


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(batch_rows(0, 9, seed=0, count=3)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_epochs_and_seeds_differ_and_are_shuffled():
    n = 1000
    orders = [epoch_order(seed, epoch, n) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a in orders:
        assert abs(np.corrcoef(a, np.arange(n))[0, 1]) < 0.1
        assert sum((a == b).mean() < 0.02 for b in orders) == 2
    assert epoch_order(0, 0, 5).tolist() == [2, 1, 4, 0, 3]  # golden: old runs must resume alike


def test_the_order_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 5)[0] = 1


def test_wrong_asks():
    with pytest.raises(ValueError, match="multiple of 3"):
        batch_rows(0, 10, seed=0, count=5, rank=0, world=3)
    with pytest.raises(ValueError, match="rank in 0 … 1"):
        batch_rows(0, 10, seed=0, count=5, rank=2, world=2)
    with pytest.raises(ValueError, match="at least one"):
        batch_rows(0, 10, seed=0, count=0)


def test_coins_are_fair_and_belong_to_the_sample():
    some = np.arange(20_000)
    for share in (0.0, 0.1, 0.5, 1.0):
        assert coins(1, 0, some, share).mean() == pytest.approx(share, abs=0.01)
    heads = coins(1, 0, some, 0.5)
    assert (coins(1, 0, some[::-1].copy(), 0.5) == heads[::-1]).all()
    for other in (
        coins(1, 1, some, 0.5),
        coins(2, 0, some, 0.5),
        epoch_order(1, 0, 20_000) < 10_000,
    ):
        assert (other == heads).mean() == pytest.approx(0.5, abs=0.02)
    each = np.repeat([0, 1], 10_000)
    mixed = np.where(each == 0, heads, coins(1, 1, some, 0.5))
    assert (coins(1, each, some, 0.5) == mixed).all()


def test_no_step_of_feeding_works_sample_by_sample():
    """A tenth of this on a quiet machine; benchmarks/rates.py measures, this only guards."""
    pixels = torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8)
    epoch_order(0, 0, 20_000)  # once an epoch

    def least(step):
        times = [time.perf_counter()]
        for _ in range(30):
            step()
            times.append(time.perf_counter())
        return min(after - before for before, after in pairwise(times))

    places = torch.as_tensor(batch_rows(128, 128, seed=0, count=20_000))
    batch = pixels[places]
    assert least(lambda: batch_rows(128, 128, seed=0, count=20_000)) < 1e-2
    assert least(lambda: pixels[places]) < 1e-2
    assert least(lambda: batch.float().div_(127.5).sub_(1)) < 1e-2


BUCKETS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def laid(counts):
    """The bucket of each row, buckets mixed among the rows."""
    flat = np.repeat(np.arange(len(counts)), counts)
    return flat[np.random.default_rng(0).permutation(len(flat))].astype(np.int64)


@given(BUCKETS, st.integers(1, 12), st.integers(0, 2))
def test_every_row_comes_equally_often_in_a_cycle(counts, batch, first):
    bucket = laid(counts)
    updates = int(cycle(np.array(counts), batch).sum())
    turn = bucket_batches(bucket, batch, seed=3)
    taken = [turn((first * updates + u) * batch) for u in range(updates)]
    seen = np.bincount(np.concatenate([t.rows for t in taken]), minlength=len(bucket))
    assert set(seen) == {updates * batch // len(bucket)}
    assert batch % (updates * batch // len(bucket)) == 0  # a cycle is no longer than `batch` epochs
    assert all(len(t.rows) == batch for t in taken)
    assert all(len(set(bucket[t.rows])) == 1 for t in taken)  # one bucket an update


@given(BUCKETS, st.integers(0, 500), st.sampled_from([1, 2, 3, 6]))
def test_any_world_size_splits_the_same_bucketed_batch(counts, update, world):
    turn = bucket_batches(laid(counts), 6, seed=3)
    parts = [turn(6 * update, rank, world) for rank in range(world)]
    whole = turn(6 * update)
    assert (np.concatenate([part.rows for part in parts]) == whole.rows).all()
    assert (np.concatenate([part.epochs for part in parts]) == whole.epochs).all()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_one_bucket_is_the_plain_order(count, batch, update):
    turn = bucket_batches(np.zeros(count, np.int64), batch, seed=5)
    plain = batch_rows(update * batch, batch, seed=5, count=count)
    assert (turn(update * batch).rows == plain).all()
    epochs = np.arange(update * batch, (update + 1) * batch) // count
    assert (turn(update * batch).epochs == epochs).all()


def test_no_picture_of_a_bucket_comes_twice_before_all_came_once():
    bucket = laid([7, 30, 12])
    turn = bucket_batches(bucket, 4, seed=1)
    seen = np.zeros(len(bucket), int)
    for update in range(200):
        now = turn(4 * update)
        for row, epoch in zip(now.rows, now.epochs, strict=True):
            assert seen[row] == epoch
            seen[row] += 1
        for kind in range(3):
            assert np.ptp(seen[bucket == kind]) <= 1


def test_buckets_come_in_proportion_all_along_and_not_in_one_rhythm():
    bucket = laid([10, 400, 90])
    turn = bucket_batches(bucket, 10, seed=1)
    kinds = np.array([bucket[turn(10 * u).rows[0]] for u in range(500)])
    for kind, share in enumerate((0.02, 0.8, 0.18)):
        ahead = np.cumsum(kinds == kind) - share * np.arange(1, 501)
        assert np.abs(ahead).max() < 2.5
    assert len({tuple(kinds[u : u + 50]) for u in range(0, 500, 50)}) == 10


def test_a_bucket_with_one_picture_fills_its_batch_with_it():
    bucket = np.array([0] * 15 + [1], np.int64)
    turn = bucket_batches(bucket, 8, seed=0)
    taken = [turn(8 * update) for update in range(16)]
    lone = [t for t in taken if 15 in t.rows]
    assert [t.rows.tolist() for t in lone] == [[15] * 8]
    assert lone[0].epochs.tolist() == list(range(8))  # so that flips and captions differ


def test_the_order_of_buckets_is_settled():
    """Golden: old runs must resume alike; and a function made anew goes on where another was."""
    bucket = np.array([0, 1, 0, 1, 1, 0, 1], np.int64)
    found = [bucket_batches(bucket, 2, seed=0)(2 * u).rows.tolist() for u in range(7)]
    assert found == [[1, 4], [2, 5], [6, 3], [0, 2], [4, 1], [3, 6], [0, 5]]
    assert found != [bucket_batches(bucket, 2, seed=1)(2 * u).rows.tolist() for u in range(7)]


def test_wrong_asks_for_buckets():
    with pytest.raises(ValueError, match="multiple of 4"):
        bucket_batches(np.zeros(9, np.int64), 6, seed=0)(0, 0, 4)
    with pytest.raises(ValueError, match="0 pictures"):
        bucket_batches(np.zeros(0, np.int64), 6, seed=0)
