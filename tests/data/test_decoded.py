"""Loading whole sources: order kept, the unreadable named, counted, listed, and never too many."""

import gc
import json
import tempfile

import numpy as np
import pytest
import torch

from pathline.data.decoded import load
from pathline.data.sources.source import Source
from pathline.types import Example


def source(count=100, *, bad=(), labels=True, captions=True, channels=3):
    """Plain pictures whose first pixel is the row number."""

    def read(row):
        if row in bad:
            raise ValueError(f"picture {row} is broken")
        image = torch.full((channels, 5, 7), row % 256, dtype=torch.uint8)
        said = f"number {row}" if captions and row % 2 else None
        return Example(image, said, row % 3 if labels else None, f"k{row}")

    return Source(count, read, ("a", "b", "c") if labels else (), captions)


def test_rows_keep_their_order_through_the_threads():
    found = load(source(), size=4, channels=3)
    assert found.pixels.shape == (100, 3, 4, 4)
    assert found.pixels[:, 0, 0, 0].tolist() == list(range(100))
    assert found.labels is not None
    assert found.labels.tolist() == [row % 3 for row in range(100)]
    assert found.captions is not None
    assert found.captions[:3] == [None, "number 1", None]
    assert found.keys == [f"k{row}" for row in range(100)]
    assert (found.names, found.unreadable) == (("a", "b", "c"), [])


def test_colour_becomes_grey_and_grey_colour():
    assert load(source(3), size=4, channels=1).pixels.shape == (3, 1, 4, 4)
    assert load(source(3, channels=1), size=4, channels=3).pixels[2].unique().tolist() == [2]


def test_what_is_not_there_is_none():
    found = load(source(labels=False, captions=False), size=4, channels=3)
    assert found.labels is None
    assert found.captions is None


def test_the_unreadable_are_skipped_and_listed(tmp_path):
    report = tmp_path / "new" / "bad.jsonl"
    found = load(source(bad={3, 50}), size=4, channels=3, max_bad=0.02, report=report)
    assert len(found.pixels) == len(found.keys) == 98
    assert found.pixels[3, 0, 0, 0] == 4
    assert found.keys[3] == "k4"
    assert [fault.reason for fault in found.unreadable] == [
        "picture 3 is broken",
        "picture 50 is broken",
    ]
    assert [json.loads(line)["reason"] for line in report.read_text().splitlines()] == [
        "picture 3 is broken",
        "picture 50 is broken",
    ]


def test_too_many_unreadable_stop_with_the_list_written(tmp_path):
    report = tmp_path / "bad.jsonl"
    with pytest.raises(
        ValueError, match=r"3 of 100 .*max_bad=0\.02 .*picture 3 is broken; .*bad\.jsonl"
    ):
        load(source(bad={3, 50, 70}), size=4, channels=3, max_bad=0.02, report=report)
    assert len(report.read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="2 of 2 pictures can't be read"):
        load(source(2, bad={0, 1}), size=4, channels=3, max_bad=1.0)


def test_other_faults_are_not_taken_for_bad_pictures():
    def read(_):
        raise TypeError("a fault of ours")

    with pytest.raises(TypeError):
        load(Source(3, read, (), False), size=4, channels=3)


def test_partly_labelled_data_is_refused():
    def read(row):
        return Example(torch.zeros(3, 4, 4, dtype=torch.uint8), None, row or None, f"k{row}")

    with pytest.raises(ValueError, match="1 of 3 pictures have no label, the first k0"):
        load(Source(3, read, ("a", "b", "c"), False), size=4, channels=3)


def test_large_sets_lie_in_a_file_and_read_alike():
    small = load(source(), size=4, channels=3)
    large = load(source(), size=4, channels=3, memory_gb=1e-9)
    assert isinstance(large.pixels.numpy().base, np.memmap | torch.Tensor | None)
    assert (large.pixels == small.pixels).all()
    rows = torch.tensor([5, 1, 99])
    assert large.pixels[rows].flatten(1).float().mean(1).tolist() == [5, 1, 99]


def test_the_temporary_file_is_open_as_long_as_its_pixels(monkeypatch):
    opened = []
    create = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: opened.append(create()) or opened[-1])
    large = load(source(), size=4, channels=3, memory_gb=1e-9)
    part = large.pixels[3:5]
    del large
    gc.collect()
    assert not opened[0].closed
    assert part[:, 0, 0, 0].tolist() == [3, 4]
    del part
    gc.collect()
    assert opened[0].closed


def test_what_fits_nowhere_is_refused_before_reading():
    with pytest.raises(ValueError, match=r"fit neither into data\.memory_gb=1e-09"):
        load(source(10**9), size=1024, channels=3, memory_gb=1e-9)


def test_progress_sees_every_row():
    seen = []

    def progress(rows):
        for row in rows:
            seen.append(row)
            yield row

    load(source(), size=4, channels=3, progress=progress)
    assert seen == list(range(100))
