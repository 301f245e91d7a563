"""Captions from file names, a trigger, and how often a folder's pictures come."""

import numpy as np
import pytest
import torch

from pathline.data.captioned import caption_of, recaptioned, repeats_of
from pathline.data.order import batch_rows, repeat_rows
from pathline.data.sources.source import Source
from pathline.types import Example


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("red_circle-03.png", "red circle"),
        ("a/b/big red-fox (2).jpg", "big red fox"),
        ("cat.v2.png", "cat v"),
        ("cat_12_003.png#2", "cat"),
        ("blue.png", "blue"),
        ("2024-05-01.png", None),
        ("shard/red_fox-1", "red fox"),
    ],
)
def test_a_file_name_is_a_caption(key, caption):
    assert caption_of(key) == caption


def source(captions=(), *, are_files=True):
    def read(row):
        return Example(torch.zeros(3, 2, 2), None, None, f"red_fox-{row}.png", captions)

    return Source(2, read, (), bool(captions), None, read, are_files=are_files)


def test_names_and_trigger_stand_in_for_captions():
    changed = recaptioned(source(("old",)), filenames=True, trigger=" sks ")
    assert changed.read(1).captions == ("sks red fox",)
    assert changed.about(1).caption == "sks red fox"
    assert changed.captioned
    assert "other captions are not used" in " ".join(changed.notes)
    tags = recaptioned(source(("1girl, solo, red_hair",)), filenames=False, trigger="sks")
    assert tags.read(0).caption == "sks, 1girl, solo, red_hair"
    assert recaptioned(source(), filenames=False, trigger="sks").read(0).captions == ("sks",)
    plain = source()
    assert recaptioned(plain, filenames=False, trigger="") is plain
    with pytest.raises(ValueError, match="have no file names"):
        recaptioned(source(are_files=False), filenames=True, trigger="")


def test_repeats_and_weights_of_folders():
    keys = ["cat/a.png", "cat/x/b.png", "5_dog/c.png", "d.png"]
    assert repeats_of(keys, [1] * 4, {}) is None
    assert repeats_of(keys, [1, 1, 5, 1], {}) == [1, 1, 5, 1]
    assert repeats_of(keys, [1, 1, 5, 1], {"cat": 3, "cat/x": 2, "dog": 1}) == [3, 2, 1, 1]
    assert repeats_of(keys, [1] * 4, {"cat": 0.5}) == [1, 1, 2, 2]
    assert repeats_of(keys, [1] * 4, {"cat": 0}) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"the folder 'cow', which holds no picture.*cat, cat/x"):
        repeats_of(keys, [1] * 4, {"cow": 2})


def test_an_epoch_has_every_picture_as_often_as_it_says():
    rows, copies = repeat_rows(np.array([3, 1, 0]), [1, 2, 9, 3])
    assert sorted(rows.tolist()) == [0, 1, 1, 3, 3, 3]
    assert {(int(r), int(c)) for r, c in zip(rows, copies, strict=True)} == {
        (3, 0), (3, 1), (3, 2), (1, 0), (1, 1), (0, 0)}  # fmt: skip
    epoch = np.concatenate([batch_rows(at, 2, seed=5, count=6) for at in (0, 2, 4)])
    assert np.bincount(rows[epoch], minlength=4).tolist() == [1, 2, 0, 3]
    same, none = repeat_rows(np.array([3, 1]), None)
    assert (same.tolist(), none.tolist()) == ([3, 1], [0, 0])
