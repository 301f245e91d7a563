"""What a cache refuses: damage, bad pictures, numbers that can't be kept, a second writer."""

import errno
import json
from dataclasses import replace

import pytest

from pathline.data.buckets import settle
from pathline.data.cache import reader as cache
from pathline.data.cache.build import Encoders, build
from pathline.data.cache.plan import RowSettings, WriteOptions
from pathline.data.cache.reader import read
from pathline.data.sources.folder import folder

BUCKETS = settle(16, 4)
SPEC = RowSettings("fake-codec", "fake-text", 4, 5)


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


def test_every_copy_of_a_broken_picture_is_listed(root, tmp_path, made):
    torn = (root / "6.png").read_bytes()[:2000]
    for name in ("6", "copy"):
        (root / f"{name}.png").write_bytes(torn)
        (root / f"{name}.txt").write_text("a picture")
    for _ in range(2):  # as it is found, and as it is remembered
        found, _ = made(root, tmp_path / "out", max_bad=0.5)
        assert (found.rows, [one.key for one in found.unreadable]) == (6, ["6.png", "copy.png"])
        lines = (tmp_path / "out" / cache.UNREADABLE).read_text().splitlines()
        assert [json.loads(line)["key"] for line in lines] == ["6.png", "copy.png"]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_file_that_could_not_be_read_is_tried_again(root, tmp_path, Machines, lasting):
    """A disk that fails for a moment says nothing of the picture; bytes that are none do."""
    out, source = tmp_path / "out", folder(path=root)
    fault = ValueError("no picture") if lasting else OSError(errno.EIO, "Input/output error")
    machines, asked = Machines(), []

    def read(row):
        asked.append(row)
        if row == 3 and asked.count(3) == 1:
            raise fault
        return source.read(row)

    how = {"options": WriteOptions(max_bad=0.5)}
    flaky = source._replace(read=read)
    for rows in (6, 6 if lasting else 7):
        made = build(
            out, flaky, BUCKETS, SPEC, Encoders(machines.encode, machines.encode_text), **how
        )
        assert made.rows == rows
        assert [one.key for one in made.unreadable] == (["3.png"] if rows == 6 else [])
    assert machines.pictures == rows


@pytest.mark.parametrize("later", [False, True])
def test_a_file_that_gave_latents_and_then_no_features_is_tried_again(
    root, tmp_path, Machines, later
):
    """Its latents stay, in the shard that holds others too."""
    out, source, machines, asked = tmp_path / "out", folder(path=root), Machines(), []
    spec = replace(SPEC, vision="fake-vision", vision_width=5, vision_tokens=16)
    tools = Encoders(machines.encode, machines.encode_text)
    if later:  # latents are there, and nothing but features is to be made
        build(out, source, BUCKETS, SPEC, tools)

    def read(row):
        asked.append(row)
        if row == 3 and asked.count(3) == 2 - later:
            raise OSError(errno.EIO, "Input/output error")
        return source.read(row)

    how = {"options": WriteOptions(max_bad=0.5)}
    for rows in (6, 7):
        made = build(
            out,
            source._replace(read=read),
            BUCKETS,
            spec,
            tools._replace(features=Machines().encode),
            **how,
        )
        assert made.encoded["features"] == (6 if rows == 6 else 1)
        assert (made.rows, len(made.unreadable), len(cache.read(out).keys)) == (
            rows,
            7 - rows,
            rows,
        )
    assert machines.pictures == 7


def test_a_picture_that_is_written_meanwhile_is_tried_again(root, tmp_path, Machines):
    out, source, machines = tmp_path / "out", folder(path=root), Machines()

    def read(row):
        if row == 3:
            (root / "3.png").touch()
        return source.read(row)

    how = {"options": WriteOptions(max_bad=0.5)}
    for some, rows in ((source._replace(read=read), 6), (source, 7)):
        made = build(
            out, some, BUCKETS, SPEC, Encoders(machines.encode, machines.encode_text), **how
        )
        assert made.rows == rows


def test_pictures_that_are_too_small_are_refused_by_name_or_kept_by_wish(
    root, tmp_path, paint, made
):
    paint(root / "tiny.png", (9, 9), 3)
    (root / "tiny.txt").write_text("tiny")
    found, _ = made(root, tmp_path / "out")
    assert (found.rows, [one.key for one in found.layout.refused]) == (7, ["tiny.png"])
    line = json.loads((tmp_path / "out" / cache.REFUSED).read_text())
    assert "9x9 would be enlarged 1.78 times to cover 16x16" in line["reason"]
    found, _ = made(root, tmp_path / "out", buckets=settle(16, 4, small="keep"))
    assert (found.rows, [one.key for one in found.layout.enlarged]) == (8, ["tiny.png"])
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

    build(
        tmp_path / "out", folder(path=root), BUCKETS, SPEC, Encoders(encode, machines.encode_text)
    )
    assert len(read(tmp_path / "out").keys) == 7


def missing_shard(out):
    next((out / "latents").iterdir()).unlink()


def cut_shard(out):
    file = next((out / "text").iterdir())
    file.write_bytes(file.read_bytes()[:-5])


def torn_shard(out):
    file = next((out / "latents").iterdir())
    file.write_bytes(b"\xff" * file.stat().st_size)


def cut_index(out):
    text = (out / cache.INDEX).read_text()
    (out / cache.INDEX).write_text(text[: len(text) // 2])


def other_format(out):
    head = json.loads((out / cache.HEAD).read_text())
    (out / cache.HEAD).write_text(json.dumps(head | {"format": 0}))


def torn_head(out):
    (out / cache.HEAD).write_text("{")


def no_null(out):
    (out / cache.NULL).unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (missing_shard, r"latents/.*safetensors is missing or cut.*preprocess"),
        (cut_shard, r"text/.*safetensors is missing or cut"),
        (torn_shard, r"latents/.*safetensors can't be read: .*preprocess"),
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
    assert len(found.damaged) == (harm in (cut_shard, torn_shard))


@pytest.mark.parametrize("kind", ["latent", "text"])
def test_numbers_that_a_dtype_cannot_hold_are_refused(root, tmp_path, kind, Machines):
    machines, scale = Machines(), {"latent": 1.0, "text": 1.0, kind: 1e6}

    def encode_text(captions):
        cond = machines.encode_text(captions)
        return cond._replace(tokens=cond.tokens * scale["text"])

    tools = Encoders(lambda pixels: machines.encode(pixels) * scale["latent"], encode_text)
    with pytest.raises(ValueError, match="not finite as fp16"):
        build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, tools)


def test_a_latent_that_never_changes_cannot_be_normalised(root, tmp_path, Machines):
    still = lambda pixels: Machines().encode(pixels) * 0  # noqa: E731
    build(
        tmp_path / "out", folder(path=root), BUCKETS, SPEC, Encoders(still, Machines().encode_text)
    )
    with pytest.raises(ValueError, match=r"channel 0 of the latents .* never changes"):
        read(tmp_path / "out")
