"""The examples run, at tiny sizes, and say and leave what their docstrings promise."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ("backbone.width=32", "backbone.depth=1", "backbone.heads=2", "train.precision=fp32")


@pytest.fixture
def example(tmp_path, monkeypatch, capfd):
    """example(file, arguments…) -> (what it printed, its exit code), run in an empty folder."""

    def run(file, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [file, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / file), run_name="__main__")
        except SystemExit as leave:
            code = leave.code
        return capfd.readouterr().out, code

    return run


def size(file):
    with Image.open(file) as picture:
        return picture.size


def numbers(line):
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_two_moons(example):
    told, _ = example("1_two_moons.py", "--updates", 150, "--out", "moons.png")
    ((heun,), (real, noise)) = map(numbers, told.splitlines()[-2:])
    assert real < heun < noise / 2  # it learnt something, and can't be better than real points
    assert size("moons.png") == (960, 480)


def test_digits(example):
    settings = (*TINY, "train.validate_every=0", "train.sample_every=0", "sample.steps=3")
    told, _ = example("2_digits.py", "--updates", 2, "--out", "run", "--set", *settings)
    (line,) = re.findall("read rightly: .*", told)
    drawn, real = numbers(line)
    assert drawn < 0.5 < 0.95 < real
    width, height = size("run/grid.png")
    assert width > 11 * 90
    assert height > 10 * 90


def test_own_folder(example):
    settings = ("--set", *TINY, "sample.steps=2", "train.batch=16")
    told, code = example("3_own_folder.py", "--updates", 1, "--out", "made", *settings)
    assert (code, len(list(Path("made/pictures").glob("*.txt")))) == (0, 400)
    assert "green ring on blue" not in {f.read_text() for f in Path("made/pictures").glob("*.txt")}
    assert len(list(Path("made/drawn").glob("a-green-ring-on-blue-*.png"))) == 4
    assert "400 pictures with captions" in told
    again = ("--pictures", "made/pictures", "--prompts", "a blue disc on red", "--out", "own")
    told, code = example("3_own_folder.py", "--updates", 1, *again, *settings)
    assert (code, len(list(Path("own/drawn").glob("a-blue-disc-on-red-*.png")))) == (0, 4)
    assert not Path("own/pictures").exists()


@pytest.mark.parametrize("file", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_takes_public_names_only(file):
    text = (EXAMPLES / file).read_text("utf-8")
    assert re.findall(r"^\s*(?:from|import) .*\b_\w+", text, re.MULTILINE) == []
    assert re.findall(r"pathline[.\w]*\._\w+", text) == []


@pytest.mark.parametrize("file", sorted(path.name for path in EXAMPLES.glob("[0-9]*.py")))
def test_a_numbered_example_is_short(file):
    text = (EXAMPLES / file).read_text("utf-8")
    assert len(text.splitlines()) <= 80
    assert {"--updates", "--out"} <= set(re.findall(r"--\w+", text))


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """Cell after cell, the last expression of each as a notebook shows it."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))
    names, shown = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            *statements, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(statements, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
    flow, count, images, previews, scores, own = shown
    assert count == ((8, 8), 20)
    assert all(sheet._repr_png_() for sheet in (images, previews, own))
    assert "step-00000080" in flow._repr_html_()
    assert "kid" in scores._repr_html_()
    assert [image.size for image in own] == [(16, 16)] * 8
    assert "Did you mean 'steps'?" in capsys.readouterr().out
