"""Every common spelling of captions, labels and files: read, or named, or refused with its file."""

import csv
import io
import json
import os

import pyarrow
import pytest
from PIL import Image
from pyarrow.parquet import write_table

from pathline.data.sources.archives import tar
from pathline.data.sources.folder import existing_folder, folder
from pathline.data.sources.rows import detect
from pathline.data.sources.tables import parquet
from pathline.images import save_sheet


@pytest.fixture
def root(tmp_path, png):
    """A folder of two pictures."""
    where = tmp_path / "set"
    where.mkdir()
    for name in ("a.png", "b.png"):
        (where / name).write_bytes(png())
    return where


def write_metadata(root, *records, name="metadata.jsonl"):
    (root / name).write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def captions(source):
    return [source.read(row).captions for row in range(source.count)]


def labels(source):
    rows = [source.read(row).label for row in range(source.count)]
    return [None if row is None else source.names[row] for row in rows]


def notes(source):
    return "\n".join(source.notes)


LABELS = {
    "floats, as pandas writes them": ([0.0, 1.0], ["0", "1"]),
    "booleans": ([True, False], ["True", "False"]),
    "words with a number": (["cat", 3], ["cat", "3"]),
    "text": (["b", "a"], ["b", "a"]),
    "none and NaN": ([float("nan"), 1], [None, "1"]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_every_type_are_classes(root, case):
    values, expected = LABELS[case]
    files = ("a.png", "b.png")
    write_metadata(
        root, *({"file_name": f, "label": v} for f, v in zip(files, values, strict=True))
    )
    assert labels(folder(path=root)) == expected


def test_labels_that_are_no_classes_are_named(root):
    write_metadata(root, {"file_name": "a.png", "label": 0.25}, {"file_name": "b.png", "label": 1})
    source = folder(path=root)
    assert source.names == ()
    assert "columns not used: label (float)" in notes(source)


CAPTIONS = {
    "first a number": ([2024, "a cat"], [("2024",), ("a cat",)]),
    "whole floats": ([2024.0, None], [("2024",), ()]),
    "lists": ([["a", "b"], ["c"]], [("a", "b"), ("c",)]),
    "list and text": ([["a"], "c"], [("a",), ("c",)]),
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_captions_of_every_type_are_read(root, case):
    values, expected = CAPTIONS[case]
    files = ("a.png", "b.png")
    write_metadata(root, *({"file_name": f, "text": v} for f, v in zip(files, values, strict=True)))
    assert captions(folder(path=root)) == expected


@pytest.mark.parametrize("name", ["Metadata.JSONL", "METADATA.jsonl"])
def test_metadata_in_capitals(root, name):
    write_metadata(root, {"File_Name": "a.png", "TEXT": "a cat", "Label": "x"}, name=name)
    source = folder(path=root)
    assert (captions(source), labels(source)) == ([("a cat",), ()], ["x", None])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_metadata_as_csv(root, delimiter):
    file = io.StringIO()
    lines = [["file_name", "text", "label"], ["a.png", 'a "red", cat', "1.0"], ["b.png", "", "0"]]
    csv.writer(file, delimiter=delimiter).writerows(lines)
    (root / "METADATA.csv").write_text("\ufeff" + file.getvalue(), encoding="utf-8", newline="")
    source = folder(path=root)
    assert captions(source) == [('a "red", cat',), ()]
    assert (labels(source), source.names) == (["1", "0"], ("0", "1"))


def test_metadata_as_parquet_is_no_table_of_pictures(root):
    columns = {"file_name": ["a.png", "b.png"], "text": ["a cat", "a dog"]}
    write_table(pyarrow.table(columns), root / "metadata.parquet")
    assert detect(root)[0] == "folder"
    assert captions(folder(path=root)) == [("a cat",), ("a dog",)]


def test_metadata_above_the_splits_counts(tmp_path, png):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(png())
    texts = ({"file_name": f"{split}/a.png", "text": split} for split in ("train", "test"))
    write_metadata(tmp_path, *texts)
    assert captions(folder(path=tmp_path)) == [("train",)]
    assert captions(folder(path=tmp_path, split="test")) == [("test",)]


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.caption", "a.Caption", "a.png.txt"])
def test_side_cars_in_every_spelling(root, name):
    (root / name).write_bytes("\ufeffa red cat\r\n".encode())
    assert captions(folder(path=root)) == [("a red cat",), ()]


def test_what_looks_like_captions_and_is_not_used_is_named(root):
    write_metadata(root, {"file_name": "a.png", "text": "a cat", "description": "a tabby"})
    for name in ("a.txt", "gone.txt", "captions.csv", "x.json"):
        (root / name).write_text("other words", encoding="utf-8")
    text = notes(folder(path=root))
    assert "columns not used: description (text); data.source.caption=" in text
    assert "side-cars of pictures that have captions from elsewhere: a.txt" in text
    assert "files of other kinds: captions.csv, gone.txt, x.json" in text


def test_all_problems_are_told_at_once(root):
    (root / "a.txt").write_bytes("café".encode("latin-1"))
    (root / "b.txt").write_bytes("cat".encode("utf-16"))
    (root / "metadata.jsonl").write_text('{\n{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^4 problems with") as error:
        folder(path=root)
    text = str(error.value)
    for part in ("a.txt is not UTF-8 text: byte 4, in line 1, is 0xe9", "b.txt is text in UTF-16",
                 "line 1 is no JSON", 'line 2 has no "file_name"'):  # fmt: skip
        assert part in text
    (root / "metadata.jsonl").write_text("{\n" * 30, encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)32 problems .*… and 22 more"):
        folder(path=root)


FORMATS = {"avif": "AVIF", "jfif": "JPEG", "jp2": "JPEG2000", "ppm": "PPM", "GIF": "GIF"}


@pytest.mark.parametrize(("suffix", "kind"), FORMATS.items())
def test_what_pillow_reads_is_read(tmp_path, suffix, kind):
    Image.new("RGB", (16, 16), (200, 30, 40)).save(tmp_path / f"a.{suffix}", kind)
    image = folder(path=tmp_path).read(0).image
    assert image.shape == (3, 16, 16)
    assert abs(int(image[0, 8, 8]) - 200) < 8


def test_other_pictures_are_counted_by_suffix_and_named(root):
    for number in range(9):
        (root / f"q{number}.jxl").write_bytes(b"\xff\x0a")
    (root / "v.mp4").write_bytes(b"")
    (root / "p.heic").write_bytes(b"")
    text = notes(folder(path=root))
    assert "JPEG XL, which is not read: convert them to PNG: 9 (9 .jxl), the first q0.jxl" in text
    assert "videos, which are not read: take pictures out of them: v.mp4" in text
    assert "HEIC" in text
    assert "p.heic" in text


def test_a_file_with_other_content_says_what_it_is(root):
    (root / "c.png").write_bytes(b"<!DOCTYPE html>")
    (root / "d.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    source = folder(path=root)
    with pytest.raises(ValueError, match=r"c\.png cannot be read as a picture: it is a web page"):
        source.read(2)
    with pytest.raises(
        ValueError, match=r"d\.png .* it is HEIC, .* pip install 'pathline\[heic\]'"
    ):
        source.read(3)


def test_thumbnails_pipes_and_our_own_pages_are_no_pictures(root, png):
    for name in ("@eaDir/a.png/S.jpg", ".thumbnails/a.png", "__MACOSX/._a.png", "._a.png",
                 "Thumbs.db", "run/samples/x.png", ".own/a.png"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    for name in ("run.yaml", "facts.json"):
        (root / "run" / name).write_text("{}")
    save_sheet(Image.new("RGB", (60, 60)), root / "contact-sheet.png")
    (root / "sheet.png").write_bytes(png())  # a person's own
    os.mkfifo(root / "pipe.png")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    source = folder(path=root)
    assert [source.read(row).key for row in range(source.count)] == ["a.png", "b.png", "sheet.png"]
    text = notes(source)
    for part in ("files of the system: ", "run folders of pathline: run", "hidden", ".own",
                 "grids that pathline wrote: contact-sheet.png", "no regular files", "pipe.png",
                 "links to nothing: gone.png"):  # fmt: skip
        assert part in text


def test_links_among_folders_end(root):
    for name in "uvwxyz":
        (root / name).mkdir()
        for other in "uvwxyz":
            (root / name / other).symlink_to(root / other)
    assert folder(path=root).count == 2


def test_a_tar_of_mixed_suffixes_and_marks(tmp_path, png):
    import tarfile

    def add(file, name, content):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))

    jpg = png(format="JPEG")
    members = {"0.png": png(), "0.txt": "\ufeffa red cat".encode(), "1.jpg": jpg,
               "1.TXT": b"a dog", "1.cls": b"1.0", "0.cls": b"0", "2.jxl": b"\xff\x0a",
               "2.txt": b"lost?", "0.seg.png": png(), "._0.png": b"x"}  # fmt: skip
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        for name, content in members.items():
            add(file, name, content)
    source = tar(path=tmp_path / "t.tar")
    assert captions(source) == [("a red cat",), ("a dog",)]
    assert labels(source) == ["0", "1"]
    for name in ("2.jxl", "2.txt", "0.seg.png", "._0.png"):
        assert name in notes(source)
    with tarfile.open(tmp_path / "t.tar", "a") as file:
        add(file, "3.png", png())
        add(file, "3.txt", "café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.tar/3\.txt is not UTF-8 text: byte 4"):
        tar(path=tmp_path / "t.tar")


def test_columns_of_a_table_in_every_type(tmp_path, png, write_parquet):
    columns = {
        "image": [png(), png()],
        "Text": [2024, 2025],
        "Label": [0.0, 1.0],
        "note": ["x", "y"],
    }
    source = parquet(path=write_parquet(tmp_path / "t.parquet", columns))
    assert (captions(source), labels(source)) == ([("2024",), ("2025",)], ["0", "1"])
    assert "columns not used: note (text)" in notes(source)
    columns = {"image": [png()], "text": [["a", "b"]], "label": [True]}
    source = parquet(path=write_parquet(tmp_path / "u.parquet", columns))
    assert (captions(source), labels(source)) == ([("a", "b")], ["True"])


def test_folders_for_kohyas_trainers(tmp_path, png):
    for name in ("5_sks cat/a.png", "1_dog/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png())
    source = folder(path=tmp_path)
    assert source.names == ("dog", "sks cat")
    assert [source.read(row).repeats for row in (0, 1)] == [1, 5]
    assert "REPEATS_name, as for kohya's trainers: dog ×1, sks cat ×5" in notes(source)
    (tmp_path / "1_dog" / "b.txt").write_text("a dog runs", encoding="utf-8")
    assert captions(folder(path=tmp_path)) == [("a dog runs",), ("sks cat",)]
    assert folder(path=tmp_path, folders="classes").names == ("1_dog", "5_sks cat")
    assert folder(path=tmp_path, folders="none").names == ()


def test_numbered_folders_have_no_repeats(tmp_path, png):
    for name in ("1_cat/a.png", "2_dog/b.png", "3_ox/c.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png())
    source = folder(path=tmp_path)
    assert source.names == ("1_cat", "2_dog", "3_ox")
    assert source.read(2).repeats == 1


def test_what_exists_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "file.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file; wanted a folder"):
        existing_folder(tmp_path / "file.png")
    with pytest.raises(FileNotFoundError, match=r"is a link to .*nowhere, which does not exist"):
        existing_folder(tmp_path / "link")
    with pytest.raises(FileNotFoundError, match=r"there is no .*x: .*file\.png is a file"):
        existing_folder(tmp_path / "file.png" / "x")
