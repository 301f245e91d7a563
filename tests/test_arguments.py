"""Typing errors are answered before torch is imported, and with a line that can be pasted."""

import re
import subprocess
import sys

import pytest

from pathline.arguments import check
from pathline.cli import main
from pathline.hints import command_line


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for folder in ("my pictures", "runs/a [1]", "runs/first"):
        (tmp_path / folder).mkdir(parents=True)
    for run in ("a [1]", "first"):
        (tmp_path / "runs" / run / "run.yaml").touch()
    monkeypatch.chdir(tmp_path)


MISTAKES = {
    ("train", "digts"): "Did you mean 'digits'",
    ("train", "digits", "train.udpates=3"): "Did you mean train.updates",
    ("train", "my", "pictures", "train.updates=3"): "train 'my pictures' train.updates=3$",
    ("data", "digits", "pictures"): "'pictures' is no setting",
    ("quickstart", "trian.updates=3"): "Did you mean train",
    ("generate", "runs/frist", "a cat"): "Did you mean 'runs/first'",
    ("generate", "a cat", "runs/a [1]", "n=3"): r"generate 'runs/a \[1\]' 'a cat' n=3$",
    ("eval", "my", "pictures", "runs/first"): "eval 'my pictures' runs/first$",
    ("ema", "runs/none"): "no run folder|not a run folder",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_typing_errors_say_what_to_type(words, capsys):
    assert main(list(words)) == 2
    assert re.search(MISTAKES[words], capsys.readouterr().err.strip())


@pytest.mark.parametrize(
    "words",
    [
        ("train", "digits", "train.updates=3", "optimizer.lr=1e-3", "terms.mse=1"),
        ("train", "my pictures", "size=large", "text=words", "backbone.depth=3"),
        ("train", "train.updates=3", "data.source=digits"),
        ("generate", "runs/first", "a cat", "steps=3"),
        ("generate", "latest"),
        ("eval", "my pictures", "runs/first", "n=3"),
        ("codec check", "taesd", "my pictures", "codec.path=x"),
        ("logging",),
    ],
)
def test_what_may_be_right_passes(words):
    check(words[0], words[1] if len(words) > 1 else None, words[2:], {})


def test_typing_errors_import_no_torch():
    for words in (["train", "digts"], ["generate", "runs/x"], ["generate", "--stps", "3"]):
        code = (
            f"import sys; from pathline.cli import main; code = main({words})\n"
            "print('torch' in sys.modules, code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "False 2", done.stderr


def test_a_missing_word_names_the_help(capsys):
    assert main(["generate"]) == 2
    captured = capsys.readouterr()
    assert "RUN requires an argument. `pathline generate --help`" in captured.out + captured.err


def test_lines_can_be_pasted():
    assert command_line("generate", "a b/[c]", 'say "x"') == (
        "pathline generate 'a b/[c]' 'say \"x\"'"
    )
