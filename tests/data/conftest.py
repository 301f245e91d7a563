"""Pictures on disk for the data room's tests; the library's cache lies in the test's own folder."""

import io

import numpy as np
import pytest
from PIL import Image


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
