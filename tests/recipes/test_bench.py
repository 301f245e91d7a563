"""`pathline bench`: what it searches, counts and splits is right; how fast is the machine's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pathline.config.resolve import read
from pathline.evaluation.timing import (
    GIB,
    Meter,
    data_sheet_rate,
    in_turns,
    largest,
    largest_batch,
    memory_meter,
    operations,
    shares_of_update,
)
from pathline.recipes import bench as recipe

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
TINY = [
    *("backbone.width=32", "backbone.depth=2", "backbone.heads=2", "train.precision=fp32"),
    *("train.batch=8", "sample.steps=2"),
]


@pytest.fixture(scope="module")
def setup():
    return recipe.set_up(read("digits", (), TINY, {"device": "cpu"}).run, Console(quiet=True))


@pytest.mark.parametrize("room", [1, 2, 3, 7, 64, 100, 1000, 4096])
def test_the_largest_that_fits_is_found_within_a_sixteenth(room):
    tried = []
    found = largest(lambda n: tried.append(n) or n <= room, 4096)
    assert room - max(1, room // 16) <= found <= room
    assert len(tried) <= 2 * room.bit_length() + 3


def test_nothing_fits():
    assert largest(lambda _: False, 64) == 0
    full = Meter(lambda work: (work(), (5, 0.0))[1], limit=4)
    with pytest.raises(ValueError, match=r"train\.batch=1 does not fit"):
        largest_batch(lambda _: None, full, most=64, patience=1.0)


def pretended(limit, seconds_each=0.0):
    """A gauge for trials that answer with their batch: 10 MiB and 3 more for each picture."""

    def around(work):
        batch = work()
        return (10 + 3 * batch) << 20, seconds_each * batch

    return Meter(around, limit)


def test_running_out_of_memory_ends_the_doubling_and_other_errors_do_not():
    def trial(batch):
        if batch > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    found, ran = largest_batch(trial, pretended(1 << 40), most=1 << 16, patience=float("inf"))
    assert 38 <= found <= 40
    assert ran == found
    with pytest.raises(RuntimeError, match="another fault"):
        largest_batch(faulty, pretended(1 << 40), most=64, patience=1.0)


def faulty(_):
    raise RuntimeError("another fault")


def test_batches_that_take_too_long_are_judged_by_the_memory_of_smaller_ones():
    ran = []

    def trial(batch):
        ran.append(batch)
        return batch

    found, most = largest_batch(
        trial, pretended((10 + 3 * 1000) << 20, 0.01), most=1 << 16, patience=0.5
    )
    assert max(ran) == most <= 50
    assert 1000 - 1000 // 16 <= found <= 1000


def test_operations_are_those_of_the_formula(setup):
    """3 × (2·rows·in·out of every linear layer + 4·L²·D a block for attention)."""
    network, tokens, per_picture = (
        setup.parts.network.backbone,
        16,
        ("modulation", "time", "shared"),
    )
    products = sum(
        2.0 * (1 if any(part in name for part in per_picture) else tokens) * layer.weight.numel()
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear)
    )
    attention = network.shape.depth * 4.0 * tokens**2 * network.shape.width
    first = ("patch", "time.up")  # inputs that need no gradient: one product less
    saved = sum(
        2.0 * (tokens if "patch" in name else 1) * layer.weight.numel()
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith(first)
    )
    batch = recipe.batch_of(setup.data, recipe.first_rows(setup.data, 2), CPU)
    assert operations(setup.parts, batch) == pytest.approx(
        3 * (products + attention) - saved, rel=1e-9
    )


def test_the_split_is_whole_and_leaves_the_player_as_it_was(setup):
    player = recipe._player(setup, compiled=False)
    own, feed = player.loss, recipe._feed(setup, 8)
    shares = shares_of_update(player, feed, CPU, rounds=3)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())
    assert player.loss is own


def test_all_works_take_turns():
    calls = []
    found = in_turns({n: lambda n=n: calls.append(n) for n in "ab"}, CPU, 0.0)
    assert calls == ["a", "b"] * 3
    assert [len(rounds) for rounds in found.values()] == [2, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems keep one peak")
def test_a_peak_is_of_the_work_alone():
    gauge = memory_meter(CPU)
    large, _ = gauge.measure(lambda: torch.ones(GIB // 8).sum())  # half a GiB
    small, _ = gauge.measure(lambda: None)
    assert large - small > 0.4 * GIB
    assert gauge.limit > 0


def test_data_sheets_are_of_half_precision():
    assert data_sheet_rate("NVIDIA H200", "bf16") == 989e12
    assert data_sheet_rate("NVIDIA H100 PCIe", "bf16") == 756e12
    assert data_sheet_rate("NVIDIA A100-SXM4-80GB", "fp16") == 312e12
    assert data_sheet_rate("NVIDIA H200", "fp32") is None
    assert data_sheet_rate("a card to come", "bf16") is None


def test_a_table_and_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "MOST", 16)
    monkeypatch.setattr(recipe, "SECONDS", 0.0)
    monkeypatch.setattr(recipe, "product_rate", lambda *_, **__: 1e10)
    file = tmp_path / "bench.json"
    assert recipe.bench("digits", *TINY, device="cpu", json=file) == 0
    report = json.loads(file.read_text())
    row = report["rows"][0]
    assert report["device"] == "cpu"
    assert report["largest_batch"] >= report["largest_batch_run"] >= 1
    assert {"train", "sample", "peak", "share"} <= {key for key, value in row.items() if value}
    shown = capsys.readouterr().out
    assert "train/s" in shown
    assert "largest batch that fits" in shown


def test_a_batch_that_leaves_no_room_is_left_out_aloud(setup, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(recipe, "MOST", 8)
    monkeypatch.setattr(recipe, "_row", full)
    report = recipe.measure(setup, Console(), compiled=False)
    assert report["rows"] == []
    assert "eager, batch 8: out of memory, left out" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        recipe.bench("digits", json=tmp_path / "none" / "bench.json")


@pytest.mark.slow
def test_the_script_for_a_card_runs_dry(tmp_path):
    file = tmp_path / "mfu.json"
    line = [sys.executable, "benchmarks/mfu.py", "--dry", "--rounds", "1", "--json", str(file)]
    line += ["--only", "precision", "attention", "batch"]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=300)
    rows = json.loads(file.read_text())["rows"]
    assert {row["switch"] for row in rows} == {"precision", "attention", "batch"}
    assert all(row["images"] > 0 and not row["fault"] for row in rows)
