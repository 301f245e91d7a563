"""Checkpoints are whole or not there; what is wrong with one is said in words."""

import errno
import json
import shutil
from collections import namedtuple

import pytest
import torch
from safetensors import SafetensorError

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
        (lambda f: (f / "manifest.json").write_bytes(b'{"files": "\xe9"}'), "cannot be read"),
        (lambda f: (f / "manifest.json").write_text('{"update": 5}'), "cannot be read"),
        (lambda f: shutil.copy(f.with_name("step-00000005") / "manifest.json", f), "was renamed"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (
            lambda f: (f / "manifest.json").write_text('{"update": 9, "files": {}}'),
            "does not list the files",
        ),
        (lambda f: (f / "manifest.json").write_text("[" * 99999), "manifest.json cannot be read"),
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


def test_files_that_are_not_listed_are_no_part_of_a_checkpoint(saved):
    """A Mac, a network drive and a synchronising program leave such files anywhere."""
    (saved / ".DS_Store").write_text("x")
    (saved / "._network.safetensors").write_bytes(b"\0\5\x16\7")
    (saved / "copy of network.safetensors").write_bytes(b"x")
    assert checkpoint.newest(saved.parent, pytest.fail) == saved
    assert checkpoint.load(saved).tensors.keys() == TENSORS.keys()


def test_a_copy_beside_the_checkpoints_is_not_one_of_them(saved):
    shutil.copytree(saved, saved.with_name(f"{saved.name} copy"))
    (saved.parent / "step-last").mkdir()
    assert checkpoint.newest(saved.parent, pytest.fail) == saved
    assert checkpoint.prune(saved.parent, recent=1, every=0) == []


def test_where_none_is_whole_what_is_wrong_with_each_is_named(saved):
    newer = checkpoint.save(saved.parent, 9, TENSORS, STATE, {})
    cut(newer)
    (saved / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole") as caught:
        checkpoint.newest(saved.parent, pytest.fail)
    assert "step-00000009: network.safetensors has" in str(caught.value)
    assert "step-00000005: manifest.json is missing" in str(caught.value)


def test_a_manifest_that_lost_an_entry_is_damaged(saved):
    """The file would be taken for a foreign one, and the checkpoint for whole."""
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["files"]["network-optimizer.safetensors"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json is not the file that was written" in checkpoint.fault_of(saved)


def test_a_manifest_cannot_name_files_outside(saved, tmp_path):
    (tmp_path / "outside.json").write_text("{}")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["../outside.json"] = manifest["files"]["state.json"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert "does not list the files of a checkpoint" in checkpoint.fault_of(saved)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_a_sentence_with_path_and_size(tmp_path, monkeypatch, number):
    """In the text of safetensors, whose error is of a class of its own."""

    def fail(*_):
        raise SafetensorError(f"Error while serializing: I/O error: … (os error {number})")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match=r"step-00000001 can't be written because .* it needs 0.0 MB"):
        checkpoint.save(tmp_path, 1, TENSORS, STATE, {})
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_midway_leaves_the_old_one_and_no_rubbish(saved, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="step-00000006 can't be written because the disk is full"):
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
