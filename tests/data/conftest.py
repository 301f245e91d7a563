"""Pictures on disk for the data room's tests, and caches of them made by stand-in encoders.

The library's own cache lies in the test's folder.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.data.buckets import settle
from pathline.data.cache.build import Encoders, build
from pathline.data.cache.plan import RowSettings, WriteOptions
from pathline.data.sources.folder import folder
from pathline.types import Cond

BUCKETS = settle(16, 4)
SPEC = RowSettings("fake-codec", "fake-text", 4, 5)
MIX = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
SIZES = [(16, 16), (30, 20), (20, 30), (40, 40), (16, 16), (33, 17), (64, 64)]  # width, height


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep HF `datasets` out of the user's cache, and off the net."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture
def png():
    """png(colour, size) -> bytes of a plain picture."""

    def make(colour=(200, 30, 40), size=(12, 10), mode="RGB", format="PNG", **options):
        file = io.BytesIO()
        Image.new(mode, size, colour).save(file, format, **options)
        return file.getvalue()

    return make


@pytest.fixture
def noise():
    """A seeded RGB picture that no two transforms leave alike."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


class _Machines:
    """An encoder of pictures and one of words, which count what they were given."""

    def __init__(self):
        self.pictures, self.said = 0, []

    def encode(self, pixels):
        self.pictures += len(pixels)
        small = torch.nn.functional.avg_pool2d(pixels.float() / 255, 4)
        return torch.einsum("kc,nchw->nkhw", MIX, small) * 3 + 1

    def encode_text(self, captions):
        self.said += captions
        rows = [_states_of(text) for text in captions]
        length = max(map(len, rows)) + 3  # as an encoder that pads does
        tokens = torch.full((len(rows), length, 6), 99.0)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
            mask[number, : len(row)] = True
        return Cond(tokens=tokens, mask=mask, pooled=torch.stack([row.mean(0) for row in rows]))


def _states_of(caption):
    words = (caption or "nothing").split()
    return torch.tensor([[len(w), ord(w[0]), n, 1, 2, 3] for n, w in enumerate(words)]).float() / 8


def _paint(file, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def Machines():
    """The class of the two stand-in encoders."""
    return _Machines


@pytest.fixture
def states_of():
    """states_of(caption) -> the states [words 6] that the stand-in gives it."""
    return _states_of


@pytest.fixture
def paint():
    """paint(file, size, seed): a picture of noise."""
    return _paint


@pytest.fixture
def root(tmp_path):
    """Seven pictures of four shapes, the fifth saying what the first says."""
    where = tmp_path / "set"
    where.mkdir()
    for number, size in enumerate(SIZES):
        _paint(where / f"{number}.png", size, number)
        (where / f"{number}.txt").write_text(
            f"picture number {number % 4} of the set", encoding="utf-8"
        )
    return where


@pytest.fixture
def made():
    """made(root, out, …) -> what writing the cache came to, and the encoders it asked."""

    def made(root, out, spec=SPEC, buckets=BUCKETS, **options):
        machines = _Machines()
        options = WriteOptions(**{"batch": 3, "shard_rows": 2, **options})
        encoders = Encoders(machines.encode, machines.encode_text)
        found = build(out, folder(path=root), buckets, spec, encoders, options=options)
        return found, machines

    return made


@pytest.fixture
def files():
    """files(out) -> the bytes of every file there."""

    def files(out):
        return {f.relative_to(out): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}

    return files
