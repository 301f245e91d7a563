"""The rows of SOURCES: every one gives uint8, a caption or label, a stable key."""

import inspect
from pathlib import Path

import pytest
import torch

from pathline.data.sources.rows import SOURCES, detect, digits, shapes

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_settings_have_defaults_or_are_what_names_the_data():
    for row in SOURCES.values():
        for name, option in inspect.signature(row).parameters.items():
            assert option.kind is option.KEYWORD_ONLY
            assert (option.default is option.empty) == (name in ("path", "repo"))


@pytest.mark.parametrize("row", ["digits", "shapes"])
def test_three_examples(row):
    source = SOURCES[row]()
    for number in (0, source.count // 2, source.count - 1):
        example = source.read(number)
        again = source.read(number)
        assert example.image.dtype == torch.uint8
        assert (example.image == again.image).all()
        assert example[1:] == again[1:]
        assert (example.caption is not None) == source.captioned
        assert (example.label is not None) == bool(source.names)
    assert len({source.read(number).key for number in range(100)}) == 100


def test_digits_are_all_there_in_full_range():
    source = digits()
    found = [source.read(row) for row in range(source.count)]
    assert len(found) == 1797
    pixels = torch.stack([example.image for example in found])
    assert pixels.shape == (1797, 1, 8, 8)
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert len(pixels.unique()) == 17
    counts = torch.bincount(torch.tensor([example.label for example in found]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_shapes_follow_their_settings():
    assert shapes(count=5).count == 5
    a, b = (shapes(count=9, seed=seed).read(3) for seed in (0, 1))
    assert (a.image != b.image).any()
    assert (a.image == shapes(count=4).read(3).image).all()
    assert shapes(split="held_out").read(0).caption != a.caption


def test_own_data_is_recognised(tmp_path, png):
    def made(name, content=b""):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return file

    picture, shard = made("a/1.png", png()), made("b/1.tar")
    made("c/x.parquet")
    for path, row in (
        (picture.parent, "folder"),
        (shard, "tar"),
        (shard.parent, "tar"),
        (tmp_path / "c", "parquet"),
    ):
        assert detect(path) == (row, {"path": str(path)})
    with pytest.raises(ValueError, match="files for folder and parquet and tar together"):
        detect(tmp_path)
    with pytest.raises(ValueError, match=r"is no data set\. Take a folder"):
        detect(picture)
    with pytest.raises(FileNotFoundError, match="next to it are a, b, c"):
        detect(tmp_path / "d")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures are not here")
@pytest.mark.parametrize(
    ("name", "row", "count", "classes", "captioned"),
    [
        ("cifar10", "parquet", 50_000, 10, False),
        ("emoji", "folder", 3540, 0, True),
        ("flowers", "tar", 4317, 5, True),
        ("botanical", "folder", 200, 0, True),
        ("subjects", "folder", 53, 10, True),
        ("subjects/dog", "folder", 5, 0, True),
    ],
)
def test_real_sets(name, row, count, classes, captioned):
    found, options = detect(SHARED / name)
    assert found == row
    source = SOURCES[row](path=Path(options["path"]))
    assert (source.count, len(source.names), source.captioned) == (count, classes, captioned)
    for number in (0, count // 2, count - 1):
        example = source.read(number)
        assert example.image.shape[0] == 3
        assert bool(example.caption) == captioned
        assert (example.label is not None) == (classes > 0)
