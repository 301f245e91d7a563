"""The cache that is read: latents, statistics and captions are those that were encoded."""

import json
import shutil

import pytest
import torch

from pathline.data.buckets import cut, place, settle
from pathline.data.cache import reader as cache
from pathline.data.cache.plan import RowSettings
from pathline.data.cache.reader import read, refuse_other
from pathline.data.order import bucket_batches
from pathline.data.sources.folder import folder
from pathline.types import Cond

BUCKETS = settle(16, 4)
SPEC_FACTS = ("fake-codec", "fake-text", 5, 4)


def test_what_is_read_is_what_was_encoded(root, tmp_path, Machines, states_of, made):
    found, machines = made(root, tmp_path / "out")
    assert (found.rows, found.encoded, machines.pictures) == (
        7,
        {"latents": 7, "text": 4, "features": 0},
        7,
    )
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


def test_rows_of_one_bucket_come_from_several_shards_in_the_order_asked(root, tmp_path, made):
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    squares = (cached.bucket == cached.bucket[0]).nonzero().flatten()
    assert len(squares) == 4
    rows = squares[[3, 0, 2, 0, 1]]
    one_by_one = torch.cat([cached.latents(row[None], None) for row in rows])
    assert torch.equal(cached.latents(rows, None), one_by_one)
    with pytest.raises(ValueError, match="rows of 2 buckets"):
        cached.latents(torch.tensor([0, 1]), None)


def test_statistics_are_those_of_what_is_stored(root, tmp_path, made):
    shutil.copy(root / "0.png", root / "twin.png")  # the same bytes: one latent, counted twice
    shutil.copy(root / "0.txt", root / "twin.txt")
    found, _ = made(root, tmp_path / "out")
    assert (found.rows, found.encoded["latents"]) == (8, 7)
    cached = read(tmp_path / "out")
    flat = [cached.latents(torch.tensor([n]), None).double().flatten(2)[0] for n in range(8)]
    values = torch.cat(flat, 1)
    assert torch.allclose(cached.mean, values.mean(1).float(), rtol=1e-6)
    assert torch.allclose(cached.std, values.std(1, correction=0).float(), rtol=1e-6)
    pooled = json.loads((tmp_path / "out" / cache.STATS).read_text())["pooled"]
    assert pooled["mean"] == pytest.approx(values.mean().item())
    assert pooled["std"] == pytest.approx(values.std(correction=0).item())


def test_the_mirror_image_is_the_latent_of_mirrored_pixels(root, tmp_path, Machines, made):
    spec = RowSettings(*SPEC_FACTS[:2], 4, 5, flip=True)
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


def test_captions_are_chosen_by_weight_and_missing_ones_are_the_null(
    root, tmp_path, states_of, made
):
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


def test_no_cache_and_another_one_are_told(root, tmp_path, made):
    with pytest.raises(FileNotFoundError, match="preprocess"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match="is no cache"):
        read(root)
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    refuse_other(cached, "fake-codec", "fake-text")
    refuse_other(cached, "fake-codec", "")
    with pytest.raises(ValueError, match=r"latents of 'fake-codec'.*codec is 'kl'"):
        refuse_other(cached, "kl", "fake-text")
    with pytest.raises(ValueError, match=r"latents of 'fake-codec'.*codec is ''"):
        refuse_other(cached, "", "fake-text")
    with pytest.raises(ValueError, match=r"text states of 'fake-text'.*text is 't5'"):
        refuse_other(cached, "fake-codec", "t5")


def test_without_an_encoder_of_words_captions_alone_are_kept(root, tmp_path, made):
    _, machines = made(root, tmp_path / "out", RowSettings("fake-codec", "", 4, 5))
    assert machines.said == []
    cached = read(tmp_path / "out")
    assert cached.captions[1] == ("picture number 1 of the set",)
    assert cached.cond(torch.tensor([0]), torch.zeros(1)) == Cond()
    assert cached.null == Cond()
    with pytest.raises(ValueError, match="has no text states"):
        refuse_other(cached, "fake-codec", "t5")


def test_the_order_of_buckets_and_the_cache_fit(root, tmp_path, made):
    made(root, tmp_path / "out")
    cached = read(tmp_path / "out")
    turn = bucket_batches(cached.bucket.numpy(), 4, seed=0)
    for update in range(20):
        rows = torch.from_numpy(turn(4 * update).rows)
        latents = cached.latents(rows, None)
        height, width = cached.sizes[cached.bucket[rows[0]]]
        assert latents.shape == (4, 5, height // 4, width // 4)
