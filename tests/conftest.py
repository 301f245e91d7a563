"""What all tests share: one thread for each worker, and pictures in every kind of source."""

import io
import os
import tarfile

import pytest
from PIL import Image

# Before torch is imported, here and in what tests start: two workers would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two classes of pictures, as a folder, a parquet file and a tar."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = [(word, number, _png(word, number)) for word in ("cat", "dog") for number in range(3)]
    folder, shards = tmp_path / "pictures", tmp_path / "a.tar"
    with tarfile.open(shards, "w") as tar:
        for word, number, png in found:
            (folder / word).mkdir(parents=True, exist_ok=True)
            (folder / word / f"{number}.png").write_bytes(png)
            for suffix, data in (("png", png), ("txt", f"a {word}".encode())):
                entry = tarfile.TarInfo(f"{word}{number}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    images = [{"bytes": png, "path": None} for *_, png in found]
    columns = {"image": images, "label": [word for word, *_ in found]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "a.parquet")
    return {"folder": folder, "parquet": tmp_path / "a.parquet", "tar": shards}


def _png(word, number):
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (200 if word == "cat" else 20, 40 * number, 90)).save(file, "PNG")
    return file.getvalue()
