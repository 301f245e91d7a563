"""No code compares a row's name: what a row needs or offers is in its record."""

import ast
from pathlib import Path

import pytest

from pathline.tables import TABLES

SRC = Path(__file__).parents[1] / "src" / "pathline"
ROW_NAMES = {name for table in TABLES.values() for name in table}


def strings_of(node, constants):
    """The strings that an expression stands for, where it is written out or a constant is."""
    if isinstance(node, ast.Name):
        node = constants.get(node.id, node)
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}


def comparisons(code):
    """Lines that compare something.name with the name of a row."""
    tree = ast.parse(code)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Tuple | ast.Constant)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(
            isinstance(side, ast.Attribute) and side.attr == "name"
            for side in (node.left, *node.comparators)
        )
        and any(strings_of(side, constants) & ROW_NAMES for side in (node.left, *node.comparators))
    ]


def test_no_module_compares_the_name_of_a_row():
    files = {str(file.relative_to(SRC)): file.read_text("utf-8") for file in SRC.rglob("*.py")}
    assert [file for file, code in files.items() if comparisons(code)] == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('run.backbone.name != "ddt"', 1),
        ('run.text.name in ("none", "labels")', 1),
        ('UNFROZEN = ("none", "words")\nrun.text.name in UNFROZEN', 1),
        ('"euler" == pick.name', 1),
        ('pick.name == "auto" or file.name == "metadata.jsonl"', 0),
    ],
)
def test_such_a_comparison_is_noticed(code, count):
    assert len(comparisons(code)) == count
