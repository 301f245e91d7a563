"""The loader: every row once an epoch, for any batch, rank, world and place to resume from."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pathline.data.loader import coins, order, rows


def taken(count, batch, steps, start=0, world=1):
    """The rows of `steps` batches, ranks one after the other."""
    return np.concatenate([
        rows(start + i * batch, batch, seed=5, count=count, rank=rank, world=world)
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
    assert sorted(rows(0, 9, seed=0, count=3)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_epochs_and_seeds_differ_and_are_shuffled():
    n = 1000
    orders = [order(seed, epoch, n) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a in orders:
        assert abs(np.corrcoef(a, np.arange(n))[0, 1]) < 0.1
        assert sum((a == b).mean() < 0.02 for b in orders) == 2
    assert order(0, 0, 5).tolist() == [2, 1, 4, 0, 3]  # golden: old runs must resume alike


def test_the_order_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        order(0, 0, 5)[0] = 1


def test_wrong_asks():
    with pytest.raises(ValueError, match="multiple of 3"):
        rows(0, 10, seed=0, count=5, rank=0, world=3)
    with pytest.raises(ValueError, match="rank in 0 … 1"):
        rows(0, 10, seed=0, count=5, rank=2, world=2)
    with pytest.raises(ValueError, match="at least one"):
        rows(0, 10, seed=0, count=0)


def test_coins_are_fair_and_belong_to_the_sample():
    some = np.arange(20_000)
    for share in (0.0, 0.1, 0.5, 1.0):
        assert coins(1, 0, some, share).mean() == pytest.approx(share, abs=0.01)
    heads = coins(1, 0, some, 0.5)
    assert (coins(1, 0, some[::-1].copy(), 0.5) == heads[::-1]).all()
    for other in (coins(1, 1, some, 0.5), coins(2, 0, some, 0.5), order(1, 0, 20_000) < 10_000):
        assert (other == heads).mean() == pytest.approx(0.5, abs=0.02)
    each = np.repeat([0, 1], 10_000)
    mixed = np.where(each == 0, heads, coins(1, 1, some, 0.5))
    assert (coins(1, each, some, 0.5) == mixed).all()


def test_no_step_of_feeding_works_sample_by_sample():
    """A tenth of this on a quiet machine; benchmarks/rates.py measures, this only guards."""
    pixels = torch.zeros(20_000, 3, 32, 32, dtype=torch.uint8)
    order(0, 0, 20_000)  # once an epoch

    def least(step):
        times = [time.perf_counter()]
        for _ in range(30):
            step()
            times.append(time.perf_counter())
        return min(after - before for before, after in pairwise(times))

    places = torch.as_tensor(rows(128, 128, seed=0, count=20_000))
    batch = pixels[places]
    assert least(lambda: rows(128, 128, seed=0, count=20_000)) < 1e-2
    assert least(lambda: pixels[places]) < 1e-2
    assert least(lambda: batch.float().div_(127.5).sub_(1)) < 1e-2
