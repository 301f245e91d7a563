"""The cache: what is read is what was encoded; what changes is redone, and nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.data import cache, scan
from pathline.data.buckets import cut, place, settle
from pathline.data.cache import read, refuse_other
from pathline.data.folders import folder
from pathline.data.loader import bucketed
from pathline.data.planning import Manner, Spec
from pathline.data.writing import Peers, build
from pathline.types import Cond

BUCKETS = settle(16, 4)
SPEC = Spec("fake-codec", "fake-text", 4, 5)
MIX = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
SIZES = [(16, 16), (30, 20), (20, 30), (40, 40), (16, 16), (33, 17), (64, 64)]  # width, height


class Machines:
    """An encoder of pictures and one of words, which count what they were given."""

    def __init__(self):
        self.pictures, self.said = 0, []

    def encode(self, pixels):
        self.pictures += len(pixels)
        small = torch.nn.functional.avg_pool2d(pixels.float() / 255, 4)
        return torch.einsum("kc,nchw->nkhw", MIX, small) * 3 + 1

    def encode_text(self, captions):
        self.said += captions
        rows = [states_of(text) for text in captions]
        length = max(map(len, rows)) + 3  # as an encoder that pads does
        tokens = torch.full((len(rows), length, 6), 99.0)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
            mask[number, : len(row)] = True
        return Cond(tokens=tokens, mask=mask, pooled=torch.stack([row.mean(0) for row in rows]))


def states_of(caption):
    words = (caption or "nothing").split()
    return torch.tensor([[len(w), ord(w[0]), n, 1, 2, 3] for n, w in enumerate(words)]).float() / 8


def paint(file, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def root(tmp_path):
    """Seven pictures of four shapes, the fifth saying what the first says."""
    where = tmp_path / "set"
    where.mkdir()
    for number, size in enumerate(SIZES):
        paint(where / f"{number}.png", size, number)
        (where / f"{number}.txt").write_text(f"picture number {number % 4} of the set")
    return where


def made(root, out, spec=SPEC, buckets=BUCKETS, **manner):
    machines = Machines()
    manner = Manner(**{"batch": 3, "shard_rows": 2, **manner})
    tools = (machines.encode, machines.encode_text)
    found = build(out, folder(path=root), buckets, spec, *tools, manner=manner)
    return found, machines


def files(out):
    return {f.relative_to(out): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def test_what_is_read_is_what_was_encoded(root, tmp_path):
    found, machines = made(root, tmp_path / "out")
    assert (found.rows, found.encoded, found.captions, machines.pictures) == (7, 7, 4, 7)
    cached = read(tmp_path / "out")
    source = folder(path=root)
    assert cached.keys == [f"{n}.png" for n in range(7)]
    assert (cached.codec, cached.text, cached.channels, cached.factor) == SPEC_FACTS
    for row in range(7):
        image = source.read(row).image
        where = place(*image.shape[1:], BUCKETS.sizes)
        assert cached.sizes[cached.bucket[row]] == where.size
        raw = Machines().encode(cut(image, where)[None])
        there = cached.latents(torch.tensor([row]), None)
        assert there.dtype == torch.float32
        assert torch.equal(there, raw.half().float())
        cond = cached.cond(torch.tensor([row]), torch.zeros(1))
        assert torch.equal(cond.tokens[cond.mask], states_of(cached.captions[row][0]))
        assert cond.tokens.shape == (1, 8, 6)
        assert not cond.tokens[~cond.mask].any()
        assert torch.equal(
            cond.pooled[0], states_of(cached.captions[row][0]).mean(0).half().float()
        )


SPEC_FACTS = ("fake-codec", "fake-text", 5, 4)


def test_rows_of_one_bucket_come_from_several_shards_in_the_order_asked(root, tmp_path):
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    squares = (cached.bucket == cached.bucket[0]).nonzero().flatten()
    assert len(squares) == 4
    rows = squares[[3, 0, 2, 0, 1]]
    one_by_one = torch.cat([cached.latents(row[None], None) for row in rows])
    assert torch.equal(cached.latents(rows, None), one_by_one)
    with pytest.raises(ValueError, match="rows of 2 buckets"):
        cached.latents(torch.tensor([0, 1]), None)


def test_statistics_are_those_of_what_is_stored(root, tmp_path):
    shutil.copy(root / "0.png", root / "twin.png")  # the same bytes: one latent, counted twice
    shutil.copy(root / "0.txt", root / "twin.txt")
    found, _ = made(root, tmp_path / "out")
    assert (found.rows, found.encoded) == (8, 7)
    cached = read(tmp_path / "out")
    flat = [cached.latents(torch.tensor([n]), None).double().flatten(2)[0] for n in range(8)]
    values = torch.cat(flat, 1)
    assert torch.allclose(cached.mean, values.mean(1).float(), rtol=1e-6)
    assert torch.allclose(cached.std, values.std(1, correction=0).float(), rtol=1e-6)
    pooled = json.loads((tmp_path / "out" / cache.STATS).read_text())["pooled"]
    assert pooled["mean"] == pytest.approx(values.mean().item())
    assert pooled["std"] == pytest.approx(values.std(correction=0).item())


def test_the_mirror_image_is_the_latent_of_mirrored_pixels(root, tmp_path):
    spec = Spec(*SPEC_FACTS[:2], 4, 5, flip=True)
    made(root, tmp_path / "out", spec)
    cached = read(tmp_path / "out")
    assert cached.flipped
    image = folder(path=root).read(0).image
    asked = torch.tensor([0, 0]), torch.tensor([False, True])
    plain, mirrored = cached.latents(*asked)
    assert torch.equal(plain, Machines().encode(image[None])[0].half().float())
    assert torch.equal(mirrored, Machines().encode(image.flip(-1)[None])[0].half().float())
    assert not torch.equal(mirrored, plain)
    values = torch.cat([
        cached.latents(torch.tensor([n]), torch.tensor([side])).double().flatten(2)[0]
        for n in range(7) for side in (False, True)
    ], 1)  # fmt: skip
    assert torch.allclose(cached.std, values.std(1, correction=0).float(), rtol=1e-6)
    made(root, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no mirror images.*data.flip=false"):
        read(tmp_path / "plain").latents(*asked)


def test_captions_are_chosen_by_weight_and_missing_ones_are_the_null(root, tmp_path):
    (root / "1.txt").write_text("one\ntwo two\nthree three three")
    (root / "2.txt").write_text("  \n")
    with pytest.raises(ValueError, match=r"1 of 7 pictures have no caption, the first 2.png"):
        made(root, tmp_path / "out")
    made(root, tmp_path / "out", missing="null")
    cached = read(tmp_path / "out")
    assert cached.captions[1] == ("one", "two two", "three three three")
    assert cached.captions[2] == ()
    chances = torch.tensor([0.0, 0.3, 0.4, 0.6, 0.7, 0.999])
    cond = cached.cond(torch.full((6,), 1), chances)
    assert cond.mask.sum(1).tolist() == [1, 1, 2, 2, 3, 3]
    mixed = cached.cond(torch.tensor([2, 0]), torch.zeros(2))
    assert torch.equal(mixed.tokens[0], cached.null.tokens[0])
    assert torch.equal(mixed.mask[0], cached.null.mask[0])
    assert torch.equal(cached.null.tokens[0, 0], states_of(None)[0])


def test_a_second_writing_encodes_nothing_and_changes_nothing(root, tmp_path):
    made(root, tmp_path / "out")
    before = files(tmp_path / "out")
    found, machines = made(root, tmp_path / "out")
    assert (found.rows, found.encoded, found.captions) == (7, 0, 0)
    assert (machines.pictures, machines.said) == (0, [])
    assert files(tmp_path / "out") == before


def test_unchanged_files_are_not_read_again(root, tmp_path, monkeypatch):
    made(root, tmp_path / "out")
    read_again = []
    size = scan._size
    monkeypatch.setattr(scan, "_size", lambda *a: read_again.append(a[1]) or size(*a))
    made(root, tmp_path / "out")
    assert read_again == []
    (root / "3.png").touch()  # another time, the same bytes
    assert made(root, tmp_path / "out")[0].encoded == 0
    assert [file.name for file in read_again] == ["3.png"]


def changed_picture(root):
    paint(root / "2.png", SIZES[2], 77)


def added_picture(root):
    paint(root / "9.png", (20, 20), 9)
    (root / "9.txt").write_text("picture number 0 of the set")


def changed_caption(root):
    (root / "2.txt").write_text("something else")


def removed_picture(root):
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
def test_just_what_changed_is_redone(root, tmp_path, change, pictures, captions):
    made(root, tmp_path / "out")
    change(root)
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


def test_what_is_removed_leaves_the_files(root, tmp_path):
    made(root, tmp_path / "out")
    (root / "3.png").unlink()
    (root / "3.txt").unlink()
    made(root, tmp_path / "out")
    head = json.loads((tmp_path / "out" / cache.CACHE).read_text())
    assert sum(shard["rows"] for shard in head["latents"]) == 6
    assert sum(shard["rows"] for shard in head["texts"]) == 3
    there = {f.name for f in (tmp_path / "out").glob("*/*")}
    assert there == {shard["file"] for shard in head["latents"] + head["texts"]}


@pytest.mark.parametrize(
    ("spec", "buckets", "pictures", "captions"),
    [
        (Spec("other-codec", "fake-text", 4, 5), BUCKETS, 7, 0),
        (Spec("fake-codec", "other-text", 4, 5), BUCKETS, 0, 5),  # and the null
        (Spec("fake-codec", "fake-text", 4, 5, dtype="bf16"), BUCKETS, 7, 0),
        (Spec("fake-codec", "fake-text", 4, 5, text_dtype="fp32"), BUCKETS, 0, 5),
        (SPEC, settle(12, 4), 7, 0),
        (SPEC, settle(16, 4, max_ratio=1.0), 3, 0),  # the squares are there
    ],
)
def test_another_codec_encoder_dtype_or_resolution_is_noticed(
    root, tmp_path, spec, buckets, pictures, captions
):
    made(root, tmp_path / "out")
    _, machines = made(root, tmp_path / "out", spec, buckets)
    assert (machines.pictures, len(machines.said)) == (pictures, captions)
    cached = read(tmp_path / "out")
    assert (cached.codec, cached.text) == (spec.codec, spec.text)
    assert {tuple(size) for size in cached.sizes} <= set(buckets.sizes)
    _, machines = made(root, tmp_path / "out", spec, buckets)
    assert (machines.pictures, machines.said) == (0, [])


class Killed(BaseException):
    """As hard as Ctrl-C."""


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_stopped_writing_loses_at_most_one_shard(root, tmp_path, after):
    whole = tmp_path / "whole"
    made(root, whole, batch=1)
    machines, out = Machines(), tmp_path / "out"

    def encode(pixels):
        if machines.pictures == after:
            raise Killed
        return machines.encode(pixels)

    manner = Manner(batch=1, shard_rows=2)
    source = folder(path=root)
    with pytest.raises(Killed):
        build(out, source, BUCKETS, SPEC, encode, machines.encode_text, manner=manner)
    with pytest.raises(ValueError, match="is not finished"):
        read(out)
    _, later = made(root, out, batch=1)
    assert later.pictures <= 7 - after + 2
    assert later.said == []
    assert files(out) == files(whole)


def test_an_old_index_holds_until_the_new_one_is_written(root, tmp_path):
    out = tmp_path / "out"
    made(root, out)
    before = read(out)
    latent = before.latents(torch.tensor([2]), None)
    changed_picture(root)
    (root / "5.png").unlink()

    def encode(_):
        raise Killed

    with pytest.raises(Killed):
        build(out, folder(path=root), BUCKETS, SPEC, encode, Machines().encode_text)
    after = read(out)
    assert after.keys == before.keys
    assert torch.equal(after.latents(torch.tensor([2]), None), latent)


def test_what_cannot_be_decoded_is_listed_and_not_tried_again(root, tmp_path):
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


def test_pictures_that_are_too_small_are_refused_by_name_or_kept_by_wish(root, tmp_path):
    paint(root / "tiny.png", (9, 9), 3)
    (root / "tiny.txt").write_text("tiny")
    found, _ = made(root, tmp_path / "out")
    assert (found.rows, [one.key for one in found.laid.refused]) == (7, ["tiny.png"])
    line = json.loads((tmp_path / "out" / cache.REFUSED).read_text())
    assert "9x9 would be enlarged 1.78 times to cover 16x16" in line["reason"]
    found, _ = made(root, tmp_path / "out", buckets=settle(16, 4, small="keep"))
    assert (found.rows, [one.key for one in found.laid.enlarged]) == (8, ["tiny.png"])
    assert not (tmp_path / "out" / cache.REFUSED).exists()


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "set").mkdir()
    paint(tmp_path / "set" / "a.png", (3, 3), 0)
    with pytest.raises(ValueError, match="none of 1 pictures can be used: 3x3 would be enlarged"):
        made(tmp_path / "set", tmp_path / "out")


def test_two_writers_are_refused(root, tmp_path):
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
def test_a_damaged_cache_is_refused_and_mended_by_writing_again(root, tmp_path, harm, told):
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


def test_no_cache_and_another_one_are_told(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocess"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match="is no cache"):
        read(root)
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    refuse_other(cached, "fake-codec", "fake-text")
    refuse_other(cached, "fake-codec", "")
    with pytest.raises(ValueError, match=r"made by 'fake-codec'.*codec is 'kl'"):
        refuse_other(cached, "kl", "fake-text")
    with pytest.raises(ValueError, match=r"made by 'fake-text'.*text is 't5'"):
        refuse_other(cached, "fake-codec", "t5")


def test_without_an_encoder_of_words_captions_alone_are_kept(root, tmp_path):
    _, machines = made(root, tmp_path / "out", Spec("fake-codec", "", 4, 5))
    assert machines.said == []
    cached = read(tmp_path / "out")
    assert cached.captions[1] == ("picture number 1 of the set",)
    assert cached.cond(torch.tensor([0]), torch.zeros(1)) == Cond()
    assert cached.null == Cond()
    with pytest.raises(ValueError, match="text states are not in it"):
        refuse_other(cached, "fake-codec", "t5")


@pytest.mark.parametrize("kind", ["latent", "text"])
def test_numbers_that_a_dtype_cannot_hold_are_refused(root, tmp_path, kind):
    machines, scale = Machines(), {"latent": 1.0, "text": 1.0, kind: 1e6}

    def encode_text(captions):
        cond = machines.encode_text(captions)
        return cond._replace(tokens=cond.tokens * scale["text"])

    tools = (lambda pixels: machines.encode(pixels) * scale["latent"], encode_text)
    with pytest.raises(ValueError, match="not finite as fp16"):
        build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, *tools)


def test_a_latent_that_never_changes_cannot_be_normalised(root, tmp_path):
    still = lambda pixels: Machines().encode(pixels) * 0  # noqa: E731
    build(tmp_path / "out", folder(path=root), BUCKETS, SPEC, still, Machines().encode_text)
    with pytest.raises(ValueError, match=r"channel 0 of the latents .* never changes"):
        read(tmp_path / "out")


def test_processes_write_what_one_process_writes(root, tmp_path):
    """Two ranks one after the other, rank 1 first: what it is told is what rank 0 planned."""
    made(root, tmp_path / "one")
    planned = []

    def told_first(value):
        planned.append(value)
        raise Killed

    out, source, manner = tmp_path / "two", folder(path=root), Manner(batch=3, shard_rows=2)
    given = {"manner": manner}
    machines = [Machines(), Machines()]
    tools = [(m.encode, m.encode_text) for m in machines]
    with pytest.raises(Killed):
        build(out, source, BUCKETS, SPEC, *tools[0], peers=Peers(0, 2, told_first), **given)
    answers = iter([planned[0], (([], 7), None)])
    second = Peers(1, 2, lambda _: next(answers))
    build(out, source, BUCKETS, SPEC, *tools[1], peers=second, **given)
    answers_of_first = iter([planned[0]])
    first = Peers(0, 2, lambda value: next(answers_of_first, value))
    build(out, source, BUCKETS, SPEC, *tools[0], peers=first, **given)
    assert 0 < machines[1].pictures < 7
    assert machines[0].pictures + machines[1].pictures == 7
    assert files(out) == files(tmp_path / "one")


def test_the_order_of_buckets_and_the_cache_fit(root, tmp_path):
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    turn = bucketed(cached.bucket.numpy(), 4, seed=0)
    for update in range(20):
        rows = torch.from_numpy(turn(4 * update).rows)
        latents = cached.latents(rows, None)
        height, width = cached.sizes[cached.bucket[rows[0]]]
        assert latents.shape == (4, 5, height // 4, width // 4)
