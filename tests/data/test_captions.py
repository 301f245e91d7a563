"""Several captions of a picture: read from everywhere, chosen by weight."""

import io
import json
import tarfile

import pytest
import torch

from pathline.data.captions import choose
from pathline.data.sources.archives import tar
from pathline.data.sources.folder import folder
from pathline.data.sources.tables import parquet


def said(source):
    found = [source.read(row) for row in range(source.count)]
    assert all(e.caption == (e.captions[0] if e.captions else None) for e in found)
    return {e.key: e.captions for e in found}


def test_captions_of_a_folder(tmp_path, png):
    for name in "abcdef":
        (tmp_path / f"{name}.png").write_bytes(png())
    lines = [
        {"file_name": "a.png", "text": " first  one", "captions": ["second", "first one", ""]},
        {"file_name": "b.png", "captions": ["only", "and"]},
        {"file_name": "c.png", "captions": ["made"]},
        {"file_name": "f.png", "captions": []},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "c.txt").write_text("by hand\n\nby hand too\nby hand\n")
    (tmp_path / "d.txt").write_text("a line\r\nanother\n")
    source = folder(path=tmp_path)
    assert source.captioned
    assert said(source) == {
        "a.png": ("first one", "second"),
        "b.png": ("only", "and"),
        "c.png": ("by hand", "by hand too", "made"),
        "d.png": ("a line", "another"),
        "e.png": (),
        "f.png": (),
    }
    assert said(folder(path=tmp_path, caption="captions"))["a.png"] == ("second", "first one")


def test_a_list_that_is_no_list_of_texts_is_no_caption(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    line = {"file_name": "a.png", "text": "x", "captions": [1, 2]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    assert said(folder(path=tmp_path)) == {"a.png": ("x",)}
    with pytest.raises(ValueError, match="caption='captions' is a column of kind 'other'"):
        folder(path=tmp_path, caption="captions")


@pytest.mark.parametrize("first", ["text", "tag_string", None])
def test_captions_of_parquet(tmp_path, png, first, write_parquet):
    import datasets

    rows: dict = {"image": [{"bytes": png(), "path": None}] * 3, "captions": [["b", "a"], [], None]}
    if first:
        rows[first] = ["a", "c", None]
    texts = datasets.List(datasets.Value("string"))
    write_parquet(tmp_path / "t.parquet", rows, image=datasets.Image(), captions=texts)
    found = list(said(parquet(path=tmp_path / "t.parquet")).values())
    assert found == ([("a", "b"), ("c",), ()] if first else [("b", "a"), (), ()])


def test_captions_of_a_tar(tmp_path, png):
    """The lines of a txt are captions, as those of a side-car; a json's list follows."""
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        about = json.dumps({"captions": ["three", "one"]}).encode()
        members = {"0.png": png(), "0.txt": b"one\ntwo\n", "0.json": about}
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert said(tar(path=tmp_path / "t.tar")) == {"0": ("one", "two", "three")}


def test_choice_follows_the_weights():
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    found = choose(uniform, [(0.6, 0.0, 0.2, 0.2)] * n)
    assert torch.allclose(
        torch.bincount(found, minlength=4) / n, torch.tensor([0.6, 0, 0.2, 0.2]), atol=0.01
    )
    assert torch.equal(found, choose(uniform, [(3, 0, 1, 1)] * n))  # of any sum
    assert torch.equal(found[7:9], choose(uniform[7:9], [(6, 0, 2, 2)] * 2))  # row by row


def test_the_ends_of_a_choice():
    ends = torch.tensor([0.0, 1 - 2**-24, 0.5, 0.3])
    assert choose(ends, [(0, 1, 1, 0), (1, 1, 0), (), (1,)]).tolist() == [1, 1, -1, 0]
    assert choose(torch.zeros(2), [(), ()]).tolist() == [-1, -1]
    assert choose(torch.zeros(0), []).tolist() == []


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (float("nan"),), (float("inf"), 1)])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="wanted weights of at least 0, not all 0"):
        choose(torch.tensor([0.5]), [weights])


def test_numbers_that_cannot_be():
    with pytest.raises(ValueError, match=r"a number in \[0, 1\)"):
        choose(torch.tensor([1.0]), [(1.0,)])
    with pytest.raises(ValueError, match="2 numbers came with the weights of 1 rows"):
        choose(torch.tensor([0.1, 0.2]), [(1.0,)])
