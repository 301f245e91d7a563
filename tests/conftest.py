"""What all tests share: one thread for each worker, and pictures in every kind of source."""

import io
import os
import tarfile

import pytest
from PIL import Image

# Before torch is imported, here and in what tests start: two workers would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def write_parquet():
    """write_parquet(file, columns, **features): a table as `Dataset.to_parquet` writes it.

    Not by `Dataset.from_dict`: its fingerprint pickles pyarrow by value where that is installed
    outside of Python's prefix, and dill warns of pyarrow's MonthDayNano, which names no module.
    """
    import datasets
    import pyarrow
    from pyarrow.parquet import write_table

    def write(file, columns, **features):
        kinds = datasets.Features.from_arrow_schema(pyarrow.table(columns).schema)
        schema = datasets.Features({**kinds, **features}).arrow_schema
        write_table(pyarrow.Table.from_pydict(columns, schema=schema), file)
        return file

    return write


@pytest.fixture
def pictures(tmp_path, monkeypatch, write_parquet):
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
    table = write_parquet(tmp_path / "a.parquet", columns, image=datasets.Image())
    return {"folder": folder, "parquet": table, "tar": shards}


def _png(word, number):
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (200 if word == "cat" else 20, 40 * number, 90)).save(file, "PNG")
    return file.getvalue()
