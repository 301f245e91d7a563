"""A cache written again, stopped or shared: just what changed is redone, and nothing else."""

import json

import pytest
import torch

from pathline.data.buckets import settle
from pathline.data.cache import reader as cache
from pathline.data.cache import scan
from pathline.data.cache.build import Encoders, Processes, build
from pathline.data.cache.plan import RowSettings, WriteOptions
from pathline.data.cache.reader import read
from pathline.data.sources.folder import folder

BUCKETS = settle(16, 4)
SPEC = RowSettings("fake-codec", "fake-text", 4, 5)


def test_a_second_writing_encodes_nothing_and_changes_nothing(root, tmp_path, made, files):
    made(root, tmp_path / "out")
    before = files(tmp_path / "out")
    found, machines = made(root, tmp_path / "out")
    assert (found.rows, *found.encoded.values()) == (7, 0, 0, 0)
    assert (machines.pictures, machines.said) == (0, [])
    assert files(tmp_path / "out") == before


def test_unchanged_files_are_not_read_again(root, tmp_path, monkeypatch, made):
    made(root, tmp_path / "out")
    read_again = []
    size = scan.size_from_header
    monkeypatch.setattr(scan, "size_from_header", lambda *a: read_again.append(a[1]) or size(*a))
    made(root, tmp_path / "out")
    assert read_again == []
    (root / "3.png").touch()  # another time, the same bytes
    assert made(root, tmp_path / "out")[0].encoded["latents"] == 0
    assert [file.name for file in read_again] == ["3.png"]


def changed_picture(root, paint):
    paint(root / "2.png", (20, 30), 77)


def added_picture(root, paint):
    paint(root / "9.png", (20, 20), 9)
    (root / "9.txt").write_text("picture number 0 of the set")


def changed_caption(root, _):
    (root / "2.txt").write_text("something else")


def removed_picture(root, _):
    (root / "3.png").unlink()


@pytest.mark.parametrize(
    ("change", "pictures", "captions"),
    [
        (changed_picture, 1, []),
        (added_picture, 1, []),
        (changed_caption, 0, ["something else"]),
        (removed_picture, 0, []),
    ],
)
def test_just_what_changed_is_redone(root, tmp_path, change, pictures, captions, made, paint):
    made(root, tmp_path / "out")
    change(root, paint)
    _, machines = made(root, tmp_path / "out")
    assert (machines.pictures, machines.said) == (pictures, captions)
    made(root, tmp_path / "anew")
    some, anew = read(tmp_path / "out"), read(tmp_path / "anew")
    assert (some.keys, some.captions, some.sizes) == (anew.keys, anew.captions, anew.sizes)
    assert torch.equal(some.bucket, anew.bucket)
    for row in torch.arange(len(some.keys)):
        one = row[None]
        assert torch.equal(some.latents(one, None), anew.latents(one, None))
        states = [c.cond(one, torch.zeros(1)).tokens for c in (some, anew)]
        assert torch.equal(*states)
    assert torch.allclose(some.std, anew.std, rtol=1e-9)


def test_what_is_removed_leaves_the_files(root, tmp_path, made):
    made(root, tmp_path / "out")
    (root / "3.png").unlink()
    (root / "3.txt").unlink()
    made(root, tmp_path / "out")
    head = json.loads((tmp_path / "out" / cache.HEAD).read_text())
    assert sum(shard["rows"] for shard in head["shards"]["latents"]) == 6
    assert sum(shard["rows"] for shard in head["shards"]["text"]) == 3
    there = {f.name for f in (tmp_path / "out").glob("*/*")}
    assert there == {shard["file"] for kind in head["shards"].values() for shard in kind}


@pytest.mark.parametrize(
    ("spec", "buckets", "pictures", "captions"),
    [
        (RowSettings("other-codec", "fake-text", 4, 5), BUCKETS, 7, 0),
        (RowSettings("fake-codec", "other-text", 4, 5), BUCKETS, 0, 5),  # and the null
        (RowSettings("fake-codec", "fake-text", 4, 5, dtype="bf16"), BUCKETS, 7, 0),
        (RowSettings("fake-codec", "fake-text", 4, 5, text_dtype="fp32"), BUCKETS, 0, 5),
        (SPEC, settle(12, 4), 7, 0),
        (SPEC, settle(16, 4, max_ratio=1.0), 3, 0),  # the squares are there
    ],
)
def test_another_codec_encoder_dtype_or_resolution_is_noticed(
    root, tmp_path, spec, buckets, pictures, captions, made
):
    made(root, tmp_path / "out")
    _, machines = made(root, tmp_path / "out", spec, buckets)
    assert (machines.pictures, len(machines.said)) == (pictures, captions)
    cached = read(tmp_path / "out")
    assert (cached.codec, cached.text) == (spec.codec, spec.text)
    assert {tuple(size) for size in cached.sizes} <= set(buckets.sizes)
    _, machines = made(root, tmp_path / "out", spec, buckets)
    assert (machines.pictures, machines.said) == (0, [])


def test_who_reads_a_cache_may_go_on_while_it_is_written_anew(root, tmp_path, made):
    """What a writing deletes was mapped when the cache was opened."""
    out = tmp_path / "out"
    made(root, out)
    reading, still = read(out), read(out)
    rows = [torch.tensor([row]) for row in range(7)]
    before = [still.latents(row, None) for row in rows]
    said = [still.cond(row, torch.zeros(1)).tokens for row in rows]
    old = {file.name for file in out.glob("*/*")}
    for number in range(7):
        (root / f"{number}.txt").write_text(f"other words for {number}")
    made(root, out, RowSettings("other-codec", "fake-text", 4, 5))
    assert not old & {file.name for file in out.glob("*/*")}  # every shard is another one
    for row, latent, tokens in zip(rows, before, said, strict=True):
        assert torch.equal(reading.latents(row, None), latent)
        assert torch.equal(reading.cond(row, torch.zeros(1)).tokens, tokens)


class Killed(BaseException):
    """As hard as Ctrl-C."""


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_stopped_writing_loses_at_most_one_shard(root, tmp_path, after, Machines, made, files):
    whole = tmp_path / "whole"
    made(root, whole, batch=1)
    machines, out = Machines(), tmp_path / "out"

    def encode(pixels):
        if machines.pictures == after:
            raise Killed
        return machines.encode(pixels)

    manner = WriteOptions(batch=1, shard_rows=2)
    source = folder(path=root)
    with pytest.raises(Killed):
        build(out, source, BUCKETS, SPEC, Encoders(encode, machines.encode_text), options=manner)
    with pytest.raises(ValueError, match="is not finished"):
        read(out)
    _, later = made(root, out, batch=1)
    assert later.pictures <= 7 - after + 2
    assert later.said == []
    assert files(out) == files(whole)


def test_a_stopped_writing_goes_on_past_what_cannot_be_decoded(root, tmp_path, Machines):
    """The first shard was written without its second picture before the stop."""
    out, source, manner = (
        tmp_path / "out",
        folder(path=root),
        WriteOptions(1, shard_rows=4, max_bad=0.5),
    )
    machines = Machines()

    def encode(pixels):
        if machines.pictures == 5:
            raise Killed
        return machines.encode(pixels)

    def decoded(row):
        if row == 3:
            raise ValueError("no picture")
        return source.read(row)

    torn = source._replace(read=decoded)
    with pytest.raises(Killed):
        build(out, torn, BUCKETS, SPEC, Encoders(encode, machines.encode_text), options=manner)
    later = Machines()
    for _ in range(2):
        found = build(
            out, torn, BUCKETS, SPEC, Encoders(later.encode, later.encode_text), options=manner
        )
        assert (found.rows, [one.key for one in found.unreadable]) == (6, ["3.png"])
        assert 0 < later.pictures <= 2  # of a shard that was not whole at the stop
        assert len(read(out).keys) == 6


def test_an_old_index_holds_until_the_new_one_is_written(root, tmp_path, Machines, made, paint):
    out = tmp_path / "out"
    made(root, out)
    before = read(out)
    latent = before.latents(torch.tensor([2]), None)
    changed_picture(root, paint)
    (root / "5.png").unlink()

    def encode(_):
        raise Killed

    with pytest.raises(Killed):
        build(out, folder(path=root), BUCKETS, SPEC, Encoders(encode, Machines().encode_text))
    after = read(out)
    assert after.keys == before.keys
    assert torch.equal(after.latents(torch.tensor([2]), None), latent)


def test_processes_write_what_one_process_writes(root, tmp_path, Machines, made, files):
    """Two ranks one after the other, rank 1 first: what it is told is what rank 0 planned."""
    made(root, tmp_path / "one")
    planned = []

    def told_first(value):
        planned.append(value)
        raise Killed

    out, source, manner = tmp_path / "two", folder(path=root), WriteOptions(batch=3, shard_rows=2)
    given = {"options": manner}
    machines = [Machines(), Machines()]
    tools = [Encoders(m.encode, m.encode_text) for m in machines]
    with pytest.raises(Killed):
        build(out, source, BUCKETS, SPEC, tools[0], processes=Processes(0, 2, told_first), **given)
    answers = iter([planned[0], (([], 7), None)])
    second = Processes(1, 2, lambda _: next(answers))
    build(out, source, BUCKETS, SPEC, tools[1], processes=second, **given)
    answers_of_first = iter([planned[0]])
    first = Processes(0, 2, lambda value: next(answers_of_first, value))
    build(out, source, BUCKETS, SPEC, tools[0], processes=first, **given)
    assert 0 < machines[1].pictures < 7
    assert machines[0].pictures + machines[1].pictures == 7
    assert files(out) == files(tmp_path / "one")
