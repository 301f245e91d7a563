"""Prompt files of every editor, prompts whose quotes were forgotten, and files that stay."""

import warnings

import pytest

from pathline.cli import main
from pathline.images import is_sheet
from pathline.runs.prompts import PromptFlags, read_items

WORDS = ("quickstart", "train.updates=1", "train.sample_every=0", "train.precision=fp32")
SMALL = ("data.source.count=16", "train.batch=4", "backbone.depth=1", "train.validate_every=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my runs") / "words [1]"
    assert main(["train", *WORDS, *SMALL, "--out", str(folder)]) == 0
    return folder


def items_of(file):
    return read_items(None, None, PromptFlags(file=file))[0]


@pytest.mark.parametrize(
    "content",
    [
        b"a cat\na dog\n",
        b"\xef\xbb\xbfa cat\r\na dog\r\n",
        b"# two of them\n\n  a cat  \n\n# the second\na dog",
    ],
)
def test_prompt_files_of_any_editor_are_read(tmp_path, content):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    assert items_of(file) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a cat\na café".encode("latin-1"), r"prompts.txt, line 2, .*byte 0xe9 at 11.*iconv"),
        (b"a\0cat", "null bytes"),
        (b"\n# nothing\n", "has no prompt"),
    ],
)
def test_what_is_no_prompt_file_is_named(tmp_path, content, message):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        items_of(file)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        items_of(tmp_path)


def test_forgotten_quotes_are_a_line_to_paste(run, capfd):
    assert (
        main(["generate", str(run), "a", "red", "circle", "above", "a", "square", "steps=2"]) == 2
    )
    line = f"pathline generate '{run}' 'a red circle above a square' steps=2\n"
    assert line in capfd.readouterr().err
    assert not (run / "pictures").exists()


def test_an_unseen_word_costs_a_warning_and_a_wrong_prompt_the_whole_command(run, capfd, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\nzebra xylophone", encoding="utf-8")
    asked = ["--out", str(tmp_path / "out"), "steps=1"]
    assert main(["generate", str(run), "--prompt-file", str(file), *asked]) == 2
    assert "No word of the prompt 'zebra xylophone'" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["generate", str(run), "a red circel", *asked]) == 0
    assert capfd.readouterr().err.startswith(
        "warning: skipped 'circel' of the prompt 'a red circel'"
    )


def test_sheets_are_marked_and_pictures_are_not(run, tmp_path):
    asked = ["--n", "2", "--trajectory", "--out", str(tmp_path), "steps=1"]
    for _ in range(2):
        assert main(["generate", str(run), "a red circle", *asked]) == 0
    marked = {file.name for file in tmp_path.iterdir() if is_sheet(file)}
    pages = ("sheet.png", "trajectory.png", "trajectory.gif")
    assert marked == {*pages, *("sheet-2.png", "trajectory-2.png", "trajectory-2.gif")}
    assert len(list(tmp_path.iterdir())) == len(marked) + 4
