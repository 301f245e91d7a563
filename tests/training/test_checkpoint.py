"""Checkpoints are whole or not there; what is wrong with one is said in words."""

import shutil
from collections import namedtuple

import pytest
import torch

from pathline.training import checkpoint

TENSORS = {"network": {"a": torch.arange(4.0)}, "network-optimizer": {"a/step": torch.tensor(3.0)}}
STATE = {"progress": {"update": 5, "images": 40}}


@pytest.fixture
def saved(tmp_path):
    return checkpoint.save(tmp_path, 5, TENSORS, STATE, {"run.yaml": "name: x\n"})


def test_what_was_saved_is_loaded(saved):
    found = checkpoint.load(saved)
    assert found.state == STATE
    assert torch.equal(found.tensors["network"]["a"], torch.arange(4.0))
    assert found.tensors["network-optimizer"]["a/step"] == 3
    assert checkpoint.load(saved, only=["network"]).tensors.keys() == {"network"}
    assert [path.name for path in saved.parent.iterdir()] == ["step-00000005"]


def cut(folder):
    file = folder / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def flip_a_bit(folder):
    file = folder / "network.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "network.safetensors").unlink(), "network.safetensors is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (cut, "bytes instead of"),
        (flip_a_bit, "digest differs"),
        (lambda f: (f / "stray.txt").write_text("x"), "stray.txt does not belong"),
    ],
)
def test_harm_is_named_and_an_older_checkpoint_taken(saved, harm, words):
    root = saved.parent
    newer = checkpoint.save(root, 9, TENSORS, STATE, {})
    assert checkpoint.newest(root, pytest.fail) == newer
    harm(newer)
    with pytest.raises(ValueError, match=words):
        checkpoint.load(newer)
    warnings = []
    assert checkpoint.newest(root, warnings.append) == saved
    assert words in warnings[0]


def test_a_save_that_fails_midway_leaves_the_old_one_and_no_rubbish(saved, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved.parent, 6, TENSORS, STATE, {})
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert not checkpoint.fault_of(saved)


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5))
    with pytest.raises(OSError, match=r"needs 0.0 MB.*has 0.0 MB free"):
        checkpoint.save(tmp_path, 1, TENSORS, STATE, {})
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_whole(saved):
    changed = {"network": {"a": torch.zeros(2)}}
    again = checkpoint.save(saved.parent, 5, changed, STATE, {})
    assert checkpoint.load(again).tensors.keys() == {"network"}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_pruning_leaves_what_a_run_that_went_back_just_wrote(tmp_path):
    """A later checkpoint, passed over as damaged, is no newer than the one just written."""
    for update in (200, 250, 300):
        checkpoint.save(tmp_path, update, TENSORS, STATE, {})
    checkpoint.prune(tmp_path, recent=1, every=0, upto=250)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [250, 300]


def test_pruning_keeps_the_recent_the_marked_and_the_last_good_one(tmp_path):
    for update in range(1, 8):
        checkpoint.save(tmp_path, update, TENSORS, STATE, {})
    (tmp_path / "step-00000007" / "manifest.json").unlink()
    (tmp_path / ".tmp-step-00000008-1").mkdir()
    checkpoint.prune(tmp_path, recent=2, every=3)
    left = sorted(path.name[-1] for path in tmp_path.iterdir())
    assert left == ["3", "5", "6", "7"]  # 7 is damaged, so 5 and 6 are the recent; 3 is marked
