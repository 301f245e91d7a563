"""What is told of a source."""

from collections import Counter

import torch

from pathline.data.sources.folder import folder
from pathline.data.sources.source import Source
from pathline.data.stats import measure, summary, words
from pathline.types import Example


def test_a_mixed_folder_is_counted_right(tmp_path, png):
    files = {"a.png": png(size=(20, 10)), "b.jpg": png(size=(10, 10), format="JPEG"),
             "c.png": png((0, 0, 0, 0), (10, 10), "RGBA"), "d.png": png()[:40]}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.txt").write_text("The red-brown fox, the fox's den.")
    stats = measure(folder(path=tmp_path), examples=3)
    assert (stats.total, [row for row, _ in stats.unreadable]) == (4, [3])
    assert stats.sizes == Counter({(10, 10): 2, (20, 10): 1})
    assert {name: n for name, n in stats.ratios.items() if n} == {"about square": 2, "3:2 … 2:1": 1}
    assert stats.modes == Counter({"RGB": 2, "RGBA": 1})
    assert (stats.alpha, stats.missing) == (1, 2)
    assert stats.lengths == Counter({6: 1})
    assert stats.words.most_common(1) == [("the", 2)]
    assert [title for _, title in stats.examples] == [
        "The red-brown fox, the fox's den.",
        "b.jpg",
        "c.png",
    ]


def test_a_source_without_files():
    def read(row):
        return Example(torch.zeros(1, 8, 8, dtype=torch.uint8), None, row % 2, f"k{row}")

    stats = measure(Source(10, read, ("no", "yes"), False), examples=5)
    assert stats.labels == Counter({0: 5, 1: 5})
    assert stats.modes == Counter({"L": 10})
    assert [title for _, title in stats.examples] == ["no"] * 5
    assert all(tile.shape == (3, 96, 96) for tile, _ in stats.examples)


def test_words_and_summaries():
    assert words("A cat's ill-lit № 7 -- ünder…") == ["a", "cat's", "ill-lit", "7", "ünder"]
    assert summary(Counter({5: 3, 1: 1, 9: 1})) == (1, 5, 9)
    assert summary(Counter()) is None


def test_every_caption_and_every_tag_is_counted(tmp_path, png):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png())
    (tmp_path / "a.txt").write_text("1girl, blue_hair, smile\nA girl smiles.\n")
    (tmp_path / "b.txt").write_text("1boy, blue_hair, hat\n")
    stats = measure(folder(path=tmp_path), examples=2)
    assert stats.captions == Counter({2: 1, 1: 1})
    assert stats.lengths == Counter({3: 3})
    assert stats.tags == Counter({"blue_hair": 2, "1girl": 1, "smile": 1, "1boy": 1, "hat": 1})
