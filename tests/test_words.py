"""Names in the code say what they hold: words that could stand for anything are not names."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 0.005  # share of all bindings


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("house")
    sys.modules.pop("house")


def test_few_names_are_banned_words(house) -> None:
    files = sorted((ROOT / "src").rglob("*.py"))
    banned, bindings = house.banned_names(ast.parse(file.read_text("utf-8")) for file in files)
    assert bindings > 5000
    assert banned.total() <= LIMIT * bindings, banned.most_common()


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "for one in rows: pass",
        "(a, Seen_), b = c",
        "def f(*, given): pass",
        "def f(*told, **ways): pass",
        "lambda _kept: 0",
        "class Wanted: pass",
        "class A:\n    drawn: int = 0",
        "[0 for way in ways]",
        "if (there := here): pass",
        "with open(x) as made: pass",
    ],
)
def test_a_banned_name_is_noticed(code, house) -> None:
    banned, _ = house.banned_names([ast.parse(code)])
    assert banned.total() >= 1


def test_reading_a_name_or_part_of_a_name_is_none(house) -> None:
    code = "updates = record.found\nfound_rows = count(seen=3)\nprint(one)\n"
    assert house.banned_names([ast.parse(code)]) == ({}, 2)
