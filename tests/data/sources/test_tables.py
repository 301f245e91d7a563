"""Parquet, tars and the hub: columns found or chosen, changes seen, nothing asked of the net."""

import io
import os
import socket
import tarfile

import datasets
import pyarrow
import pytest
from pyarrow.parquet import write_table

from pathline.data.sources.archives import tar
from pathline.data.sources.tables import hub, parquet


def write_tar(file, members, mode="w"):
    with tarfile.open(file, mode) as out:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file


@pytest.fixture
def table(tmp_path, png, write_parquet):
    """table(**columns) -> a parquet file of two pictures and these columns."""

    def make(name="data.parquet", features=(), **columns):
        pictures = [
            {"bytes": png((7, 8, 9)), "path": "x.png"},
            {"bytes": png((1, 2, 3)), "path": None},
        ]
        given = {"image": datasets.Image(decode=False), **dict(features)}
        return write_parquet(tmp_path / name, {"image": pictures, **columns}, **given)

    return make


def test_pictures_captions_and_classes_are_found(table):
    kinds = {"label": datasets.ClassLabel(names=["ant", "bee"])}
    file = table(features=kinds, caption=["an ant", None], label=[1, -1], width=[3, 4])
    source = parquet(path=file)
    assert (source.count, source.names, source.captioned) == (2, ("ant", "bee"), True)
    first, second = source.read(0), source.read(1)
    assert first.image[:, 0, 0].tolist() == [7, 8, 9]
    assert (first.caption, first.label, first.key) == ("an ant", 1, "data-000000")
    assert (second.caption, second.label, second.key) == (None, None, "data-000001")


def test_plain_bytes_and_words_as_labels(tmp_path, png, write_parquet):
    columns = {"jpg": [png(), png()], "class": ["b", "a"]}
    source = parquet(path=write_parquet(tmp_path / "t.parquet", columns))
    assert source.names == ("a", "b")
    assert [source.read(row).label for row in (0, 1)] == [1, 0]


@pytest.mark.parametrize("name", ["photos [2024]", "all *", "who?"])
def test_a_folder_named_with_signs_of_a_pattern_is_read(name, tmp_path, png, write_parquet):
    (tmp_path / name).mkdir()
    file = write_parquet(tmp_path / name / "part [1].parquet", {"jpg": [png()], "text": ["a"]})
    assert parquet(path=file).count == parquet(path=file.parent).count == 1


def test_ambiguous_missing_and_unfit_columns_list_what_there_is(table, tmp_path, write_parquet):
    file = table(text=["a", "b"], prompt=["c", "d"], score=[0.5, 0.1])
    with pytest.raises(ValueError, match=r"caption could be any of text, prompt.*score \(float\)"):
        parquet(path=file)
    assert parquet(path=file, caption="prompt").read(0).caption == "c"
    with pytest.raises(ValueError, match="label='score' is a column of kind 'float'"):
        parquet(path=file, caption="text", label="score")
    bare = write_parquet(tmp_path / "bare.parquet", {"text": ["a"]})
    with pytest.raises(ValueError, match=r"no column of pictures; its columns are text \(text\)"):
        parquet(path=bare)


def test_label_out_of_range(tmp_path, png, write_parquet):
    columns = {"image": [png()], "label": [-3]}
    with pytest.raises(ValueError, match="label -3; wanted whole numbers from 0"):
        parquet(path=write_parquet(tmp_path / "t.parquet", columns))


def test_splits_by_file_name(table, tmp_path):
    table("train-0.parquet", text=["train", "train"])
    table("test-0.parquet", text=["test", "test"])
    source = parquet(path=tmp_path)
    assert (source.count, source.read(0).caption, source.read(0).key) == (
        2,
        "train",
        "train-000000",
    )
    assert parquet(path=tmp_path, split="test").read(0).caption == "test"
    with pytest.raises(ValueError, match=r"the split 'val': test-0\.parquet, train-0\.parquet"):
        parquet(path=tmp_path, split="val")


def test_splits_as_the_hub_names_them(table, tmp_path):
    for name in ("train-0", "validation-0", "trains", "training-9"):
        table(f"{name}.parquet", text=[name, name])
    assert parquet(path=tmp_path, split="validation").read(0).caption == "validation-0"
    assert parquet(path=tmp_path, split="val").read(0).caption == "validation-0"
    source = parquet(path=tmp_path)
    assert [source.read(row).caption for row in (0, 3)] == ["train-0", "training-9"]


def test_a_table_names_no_file_outside_its_folder(tmp_path, png):
    (tmp_path / "beside.png").write_bytes(png((5, 6, 7)))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(png((5, 6, 7)))
    cells = [
        {"bytes": None, "path": "own.png"},
        {"bytes": None, "path": str(tmp_path / "beside.png")},
        {"bytes": None, "path": "../beside.png"},
        {"bytes": b"", "path": "own.png"},
    ]
    file = tmp_path / "set" / "a.parquet"
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    write_table(pyarrow.table({"image": pyarrow.array(cells, kind)}), file)
    source = parquet(path=file)
    assert source.read(0).image[:, 0, 0].tolist() == [5, 6, 7]
    for row in (1, 2):
        with pytest.raises(ValueError, match=r"which is not below .*set"):
            source.read(row)
    with pytest.raises(ValueError, match="has no picture"):
        source.read(3)


def test_numbers_that_are_names_are_no_classes(table):
    with pytest.raises(ValueError, match="the label 2000000000: numbers so large are names"):
        parquet(path=table(label=[3, 2_000_000_000]))


def test_a_rewritten_table_is_read_anew_even_with_its_old_time(table):
    file = table(text=["old", "old"])
    old = file.stat()
    assert parquet(path=file).read(0).caption == "old"
    table(text=["new", "new"])
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert file.stat().st_size == old.st_size  # so that only the stamp can tell
    assert parquet(path=file).read(0).caption == "new"


def test_tars_with_captions_classes_and_gaps(tmp_path, png):
    write_tar(tmp_path / "b-1.tar", {"x/1.PNG": png((5, 5, 5)), "x/1.cls": "3"})
    write_tar(tmp_path / "b-0.tar", {"0.PNG": png(), "0.txt": "said", "0.cls": "1"})
    source = tar(path=tmp_path)
    first, second = source.read(0), source.read(1)
    assert (source.count, source.names) == (2, ("0", "1", "2", "3"))
    assert (first.key, first.caption, first.label) == ("0", "said", 1)
    assert (second.key, second.caption, second.label) == ("x/1", None, 3)
    assert second.image[:, 0, 0].tolist() == [5, 5, 5]


def test_a_tar_of_captions_as_json(tmp_path, png):
    file = write_tar(tmp_path / "t.tar", {"0.png": png(), "0.json": '{"prompt": "said", "id": 4}'})
    source = tar(path=file)
    assert source.read(0).caption == "said"
    assert tar(path=file, caption="json.prompt").read(0).caption == "said"


def test_a_rewritten_tar_is_read_anew(tmp_path, png):
    file = write_tar(tmp_path / "t.tar", {"0.png": png(), "0.txt": "old"})
    old = file.stat()
    assert tar(path=file).read(0).caption == "old"
    write_tar(file, {"0.png": png(), "0.txt": "new"})
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert tar(path=file).read(0).caption == "new"


def test_broken_and_foreign_files(tmp_path, png):
    whole = write_tar(tmp_path / "t.tar", {"0.png": png(), "0.txt": "x" * 5000}).read_bytes()
    (tmp_path / "t.tar").write_bytes(whole[:1200])
    with pytest.raises(ValueError, match=r"t\.tar cannot be read"):
        tar(path=tmp_path / "t.tar")
    write_tar(tmp_path / "words.tar", {"0.txt": "x"})
    with pytest.raises(ValueError, match=r"holds no picture, .* files of other kinds: 0\.txt"):
        tar(path=tmp_path / "words.tar")
    write_tar(tmp_path / "zipped.tar", {"0.png": png()}, "w:gz")
    with pytest.raises(ValueError, match="plain tar"):
        tar(path=tmp_path / "zipped.tar")
    (tmp_path / "p.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(ValueError, match=r"p\.parquet cannot be read as parquet"):
        parquet(path=tmp_path / "p.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.parquet file"):
        parquet(path=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="there is no"):
        parquet(path=tmp_path / "none.parquet")


def test_a_broken_picture_is_named_by_its_row(tmp_path, png, write_parquet):
    columns = {"image": [png(), png()[:30], b""]}
    source = parquet(path=write_parquet(tmp_path / "t.parquet", columns))
    with pytest.raises(ValueError, match=r"t\.parquet: t-000001 cannot be read as a picture"):
        source.read(1)


def test_local_data_asks_nothing_of_the_net(table, tmp_path, png, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the net was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert parquet(path=table(text=["a", "b"])).count == 2
    assert tar(path=write_tar(tmp_path / "t.tar", {"0.png": png()})).count == 1
    assert capfd.readouterr() == ("", "")  # nor are there bars or logs


def test_the_hub_reads_like_a_local_table_and_says_what_failed(table, monkeypatch):
    local = datasets.Dataset.from_parquet(str(table(text=["a", "b"])))
    asked = []

    def load(repo, **options):
        asked.append((repo, options))
        if repo != "some/set":
            raise ConnectionError("no route")
        return local

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = hub(repo="some/set", revision="abc")
    assert (source.count, source.read(1).caption, source.read(1).key) == (2, "b", "train-000001")
    assert asked[0][1] == {"name": None, "split": "train", "revision": "abc"}
    with pytest.raises(ValueError, match=r"'other/set' .*cannot be had: ConnectionError: no route"):
        hub(repo="other/set")
