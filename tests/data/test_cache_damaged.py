"""What a cache refuses: damage, bad pictures, numbers that can't be kept, a second writer."""

import json

import pytest

from pathline.data import cache
from pathline.data.buckets import settle
from pathline.data.cache import read
from pathline.data.folders import folder
from pathline.data.planning import Spec
from pathline.data.writing import build

BUCKETS = settle(16, 4)
SPEC = Spec("fake-codec", "fake-text", 4, 5)


def test_what_cannot_be_decoded_is_listed_and_not_tried_again(root, tmp_path, made):
    torn = (root / "6.png").read_bytes()
    (root / "6.png").write_bytes(torn[:2000])  # its header is whole
    (root / "text.png").write_text("no picture")
    (root / "text.txt").write_text("no picture")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"2 of 8 pictures can't be read.*unreadable.jsonl"):
        made(root, out)
    found, machines = made(root, out, max_bad=0.5)
    assert machines.pictures == 0  # the first writing's shards
    assert found.rows == 6
    lines = [json.loads(line) for line in (out / cache.UNREADABLE).read_text().splitlines()]
    assert ["6.png" in lines[0]["reason"], "text.png" in lines[1]["reason"]] == [True, True]
    (root / "6.png").write_bytes(torn)
    (root / "text.png").unlink()
    assert made(root, out)[0].rows == 7
    assert not (out / cache.UNREADABLE).exists()


def test_pictures_that_are_too_small_are_refused_by_name_or_kept_by_wish(
    root, tmp_path, paint, made
):
    paint(root / "tiny.png", (9, 9), 3)
    (root / "tiny.txt").write_text("tiny")
    found, _ = made(root, tmp_path / "out")
    assert (found.rows, [one.key for one in found.laid.refused]) == (7, ["tiny.png"])
    line = json.loads((tmp_path / "out" / cache.REFUSED).read_text())
    assert "9x9 would be enlarged 1.78 times to cover 16x16" in line["reason"]
    found, _ = made(root, tmp_path / "out", buckets=settle(16, 4, small="keep"))
    assert (found.rows, [one.key for one in found.laid.enlarged]) == (8, ["tiny.png"])
    assert not (tmp_path / "out" / cache.REFUSED).exists()


def test_nothing_usable_is_an_error(tmp_path, paint, made):
    (tmp_path / "set").mkdir()
    paint(tmp_path / "set" / "a.png", (3, 3), 0)
    with pytest.raises(ValueError, match="none of 1 pictures can be used: 3x3 would be enlarged"):
        made(tmp_path / "set", tmp_path / "out")


def test_two_writers_are_refused(root, tmp_path, Machines, made):
    machines = Machines()

    def encode(pixels):
        with pytest.raises(ValueError, match="is being written by another process"):
            made(root, tmp_path / "out")
        return machines.encode(pixels)

    build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, encode, machines.encode_text)
    assert len(read(tmp_path / "out").keys) == 7


def missing_shard(out):
    next((out / "latents").iterdir()).unlink()


def cut_shard(out):
    file = next((out / "text").iterdir())
    file.write_bytes(file.read_bytes()[:-5])


def cut_index(out):
    text = (out / cache.INDEX).read_text()
    (out / cache.INDEX).write_text(text[: len(text) // 2])


def other_format(out):
    head = json.loads((out / cache.CACHE).read_text())
    (out / cache.CACHE).write_text(json.dumps(head | {"format": 0}))


def torn_head(out):
    (out / cache.CACHE).write_text("{")


def no_null(out):
    (out / cache.NULL).unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (missing_shard, r"latents/.*safetensors is missing or cut.*preprocess"),
        (cut_shard, r"text/.*safetensors is missing or cut"),
        (cut_index, r"index.jsonl is cut"),
        (other_format, "format 0"),
        (torn_head, "cache.json is damaged"),
        (no_null, "null.safetensors is missing"),
    ],
)
def test_a_damaged_cache_is_refused_and_mended_by_writing_again(
    root, tmp_path, harm, told, made, files
):
    out = tmp_path / "out"
    made(root, out)
    whole = files(out)
    harm(out)
    with pytest.raises(ValueError, match=told):
        read(out)
    found, machines = made(root, out)
    assert files(out) == whole
    assert machines.pictures <= 2
    assert found.damaged == (
        [f.name for f in (out / "text").iterdir()] if harm is cut_shard else []
    )


@pytest.mark.parametrize("kind", ["latent", "text"])
def test_numbers_that_a_dtype_cannot_hold_are_refused(root, tmp_path, kind, Machines):
    machines, scale = Machines(), {"latent": 1.0, "text": 1.0, kind: 1e6}

    def encode_text(captions):
        cond = machines.encode_text(captions)
        return cond._replace(tokens=cond.tokens * scale["text"])

    tools = (lambda pixels: machines.encode(pixels) * scale["latent"], encode_text)
    with pytest.raises(ValueError, match="not finite as fp16"):
        build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, *tools)


def test_a_latent_that_never_changes_cannot_be_normalised(root, tmp_path, Machines):
    still = lambda pixels: Machines().encode(pixels) * 0  # noqa: E731
    build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, still, Machines().encode_text)
    with pytest.raises(ValueError, match=r"channel 0 of the latents .* never changes"):
        read(tmp_path / "out")
