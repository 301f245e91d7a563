"""Every row of every table says in a line what it is, and every option of it can be typed."""

import inspect

import pytest
import torch

from pathline.config.pick import function_of, options_of
from pathline.tables import TABLES

ROWS = [(table, name) for table in TABLES for name in TABLES[table]]
# A path is four formulas, not a function with settings.
FUNCTIONS = [(table, name) for table, name in ROWS if table != "path"]


@pytest.mark.parametrize(("table", "name"), FUNCTIONS)
def test_a_row_says_in_one_line_what_it_is(table, name):
    line = (inspect.getdoc(function_of(TABLES[table][name])) or "").partition("\n")[0]
    assert 10 < len(line) <= 100


def untypeable(row):
    """The settings of a row that nobody could type: such a one is left out in silence."""
    parameters = inspect.signature(row, eval_str=True).parameters.values()
    mine = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name[0] != "_"}
    bare = {name for name, p in mine.items() if p.annotation is p.empty}
    return (mine.keys() - options_of(row).keys()) | bare


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_option_of_a_row_can_be_typed(table, name):
    assert untypeable(function_of(TABLES[table][name])) == set()


def test_an_option_that_cannot_be_typed_is_noticed():
    def row(x, *, weight: torch.Tensor, scale=1.0, _wiring: object = None, size: int = 2):
        return x, weight, scale, _wiring, size

    assert untypeable(row) == {"weight", "scale"}
