"""`pathline data`: the tables say what is there, the sheet is a picture."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pathline.cli import main
from pathline.console import open_console
from pathline.data.sources.folder import folder
from pathline.data.sources.rows import shapes
from pathline.recipes.data import data, inspect


def printed(source, out):
    console = open_console(file=io.StringIO(), width=100)
    inspect(source, out=out, console=console)
    return console.file.getvalue()


def test_shapes_are_told_and_shown(tmp_path):
    text = printed(shapes(count=60), tmp_path / "new" / "sheet.png")
    assert "60 pictures; 0 unreadable; 60 with a caption; 0 without" in text
    assert "32 x 32" in text
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > 600


def test_unreadable_pictures_are_named(tmp_path):
    Image.new("RGB", (9, 4)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    text = printed(folder(path=tmp_path), tmp_path / "sheet.png")
    assert "2 pictures; 1 unreadable" in text
    assert "torn.png cannot be read as a picture" in text


def test_the_command_reads_a_folder_and_fails_where_nothing_can_be_read(tmp_path, capsys):
    root = tmp_path / "set"
    root.mkdir()
    Image.new("RGBA", (9, 4)).save(root / "a.png")
    out = tmp_path / "sheet.png"
    assert data(str(root), out=out) == 0
    assert "1 may be transparent" in capsys.readouterr().out
    assert out.is_file()
    (root / "a.png").write_bytes(b"")
    assert data(str(root), out=tmp_path / "none.png") == 2
    assert not (tmp_path / "none.png").exists()
    with pytest.raises(ValueError, match="is inside the image folder"):
        data(str(root), out=root / "sheet.png")


def test_several_captions_and_tags_are_told(tmp_path):
    Image.new("RGB", (9, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1girl, blue_hair, smile\nA girl smiles.\n")
    text = printed(folder(path=tmp_path), tmp_path / "sheet.png")
    assert "captions of a picture" in text
    assert "blue_hair" in text
    assert "captions of a picture" not in printed(shapes(count=9), tmp_path / "sheet.png")


def test_what_exists_is_not_said_to_be_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nowhere")
    Path("file").write_bytes(b"")
    Path("empty").mkdir()
    sentences = {
        "link": "link is a link to nowhere, which does not exist",
        "file/x": "file is a file",
        "empty": "empty holds no picture, such as .png, .jpg or .webp. It holds nothing",
        "file": "file is no data set",
    }
    for what, sentence in sentences.items():
        assert main(["data", what]) == 2
        assert sentence in capsys.readouterr().err


def test_what_is_read_and_left_out_is_said(tmp_path, capsys):
    root = tmp_path / "[b] set"
    root.mkdir()
    for name in ("a.png", "[red]b.png"):
        Image.new("RGB", (9, 4)).save(root / name)
    (root / "a.txt").write_text("[/b] cat", encoding="utf-8")
    (root / "c.jxl").write_bytes(b"")
    assert main(["data", str(root), "--out", str(tmp_path / "page.png")]) == 0
    text = capsys.readouterr().out
    assert "captions from side-cars: .txt" in text
    assert "left out, JPEG XL, which is not read: convert them to PNG: c.jxl" in text
    assert "2 pictures; 0 unreadable; 1 with a caption; 1 without" in text
    assert main(["train", str(root), "data.size=8", "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert "c.jxl" in shown.out
    assert "1 of 2 pictures have no caption, the first [red]b.png" in shown.err
