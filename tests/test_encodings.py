"""Text files are opened as UTF-8 everywhere, whatever the locale says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file
    for folder in ("src", "benchmarks", "examples", "docs", "tests")
    for file in (ROOT / folder).rglob("*.py")
    if folder != "tests" or file.name == "conftest.py"
)
# function or method -> the place of `encoding` among its arguments, `self` not counted
TEXT = {"read_text": 0, "write_text": 1}
OPENERS = ("open", "fdopen", "NamedTemporaryFile", "TextIOWrapper")


def is_text(call: ast.Call, name: str) -> bool:
    """Whether an opener's mode is that of text; one that is not a literal may be."""
    place = 0 if name == "open" and isinstance(call.func, ast.Attribute) else 1
    modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[
        place : place + 1
    ]
    default = "w+b" if name == "NamedTemporaryFile" else "r"
    mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else default
    return "b" not in str(mode)


def is_foreign(call: ast.Call) -> bool:
    """Whether `open` belongs to what knows no encodings: Pillow's images, tars, browsers."""
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if owner == "os":
        return ast.unparse(call.func) == "os.open"
    return owner in ("Image", "tarfile", "webbrowser", "safetensors", "zipfile", "importlib")


def without_encoding(tree: ast.AST) -> list[int]:
    """The lines of calls that read or write text in the locale's encoding."""
    lines = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
            continue
        name = (
            call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        )
        if any(word.arg == "text" and ast.unparse(word.value) == "True" for word in call.keywords):
            lines.append(call.lineno)  # of a subprocess
        if name in TEXT and len(call.args) <= TEXT[name]:
            lines.append(call.lineno)
        if name in OPENERS and not is_foreign(call) and is_text(call, name):
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text('x')", True),
        ("path.write_text('x', encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('a')", True),
        ("path.open(mode='wb')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("os.fdopen(fd, 'w')", True),
        ("Image.open(path)", False),
        ("subprocess.run(command, text=True)", True),
    ],
)
def test_the_oracle(code, is_found):
    assert bool(without_encoding(ast.parse(code))) == is_found


def test_every_text_file_is_opened_as_utf_8():
    found = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in FILES
        for line in without_encoding(ast.parse(file.read_text("utf-8")))
    }
    assert found == set()
