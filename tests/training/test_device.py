"""Rates of a device and the precision chosen by them."""

import time
from itertools import count

import pytest
import torch

from pathline.training import device as module
from pathline.training.device import best_rate, pick_device, pick_precision, product_rate

CPU = torch.device("cpu")


def gpu(peak, sizes):
    """Seconds of a product on a GPU of this peak: a start takes 10 µs, small ones fill it badly."""

    def seconds(size):
        sizes.append(size)
        filled = min(1.0, (size / 6000) ** 0.8)
        return 10e-6 + 2 * size**3 / (peak * filled)

    return seconds


def test_a_large_gpu_is_measured_with_products_that_fill_it():
    sizes = []
    seconds = gpu(790e12, sizes)
    assert 2 * 1024**3 / seconds(1024) < 150e12  # what a small product would report
    assert best_rate(seconds) > 0.95 * 790e12
    assert max(sizes) >= 8192
    assert sum(24 * seconds(size) for size in list(sizes)) < 1.0  # bounded time


@pytest.mark.parametrize("flops", [50e9, 250e9])
def test_a_processor_is_measured_at_the_first_size_alone(flops):
    sizes = []
    rate = best_rate(lambda size: sizes.append(size) or 2 * size**3 / flops)
    assert sizes == [512]
    assert rate == pytest.approx(flops)


def test_sizes_end_where_the_rate_stops_rising_and_at_the_last():
    sizes = []
    best_rate(lambda size: sizes.append(size) or 2 * size**3 / 100e12)
    assert sizes == [512, 1024]
    sizes.clear()
    best_rate(lambda size: sizes.append(size) or 1e-6, last=4096)
    assert sizes == [512, 1024, 2048, 4096]


def test_a_slower_larger_product_does_not_lower_the_rate():
    seconds = {512: 1e-5, 1024: 1e-3}
    assert best_rate(seconds.__getitem__) == 2 * 512**3 / 1e-5


def test_a_product_is_timed_by_the_clock(monkeypatch):
    clock = count(0, 0.4)  # seconds between looks: four products take 0.4
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert product_rate(CPU, torch.float32, size=8) == pytest.approx(2 * 8**3 / 0.1)


@pytest.mark.parametrize(("bf16", "chosen"), [(1.2, "fp32"), (1.4, "bf16")])
def test_auto_takes_bf16_where_its_products_are_faster(bf16, chosen, monkeypatch):
    rates = {torch.float32: 1e12, torch.bfloat16: bf16 * 1e12}
    monkeypatch.setattr(module, "product_rate", lambda _, dtype: rates[dtype])
    precision = pick_precision("auto", CPU)
    assert precision.name == chosen
    assert precision.reason == f"measured: fp32 1000 GFLOP/s, bf16 {bf16 * 1000:.0f} GFLOP/s"


def test_unknown_names_are_answered_with_what_to_set():
    with pytest.raises(ValueError, match=r"train.precision=fp8 .* Set one of auto, fp32, bf16"):
        pick_precision("fp8", CPU)
    with pytest.raises(ValueError, match=r"device=cuda:99 can't be used: .* Try --device auto"):
        pick_device("cuda:99")
