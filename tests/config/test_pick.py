"""Rows by name, options by signature."""

from collections.abc import Callable
from typing import Literal

import pytest

from pathline.config.pick import Pick, bind, choose, options_of, pick, problems


def euler(x, /):
    return x


def sde(
    x, *, churn: float = 1.0, kind: Literal["a", "b"] = "a", field: Callable = abs, _own: int = 1
):
    return field(x), churn, kind


def folder(*, path: str, depth: int | None = None):
    return path, depth


STEPS = {"euler": euler, "heun": lambda x: x, "adams2": lambda x: x, "sde": sde}


def test_unknown_row_names_the_nearest_and_all():
    with pytest.raises(ValueError) as error:  # noqa: PT011
        choose(STEPS, "huen", "solver step")
    assert str(error.value) == (
        "There is no solver step called 'huen'. Did you mean 'heun'? "
        "There are: adams2, euler, heun, sde."
    )


def test_wiring_is_no_option():
    assert list(options_of(sde)) == ["churn", "kind"]
    assert options_of(euler) == {}


def test_an_option_cannot_be_called_name():
    def row(*, name: str): ...

    with pytest.raises(AssertionError, match="names the row"):
        options_of(row)


def test_problems_come_all_at_once():
    found = dict(problems(STEPS, pick("sde", chrun=2, churn="much", kind="c"), "solver step"))
    assert found["chrun"] == (
        "The solver step 'sde' takes no option 'chrun'. Did you mean 'churn'? "
        "It takes: churn, kind."
    )
    assert found["churn"] == "=much is wrong because it must be a number."
    assert "one of a, b" in found["kind"]


def test_problem_of_an_unknown_row_stands_at_its_name():
    assert [key for key, _ in problems(STEPS, pick("huen", churn=1), "solver step")] == ["name"]


def test_missing_option():
    assert problems({"folder": folder}, Pick("folder"), "data source") == [
        ("path", "The data source 'folder' needs path, which is not given.")
    ]


def test_no_option_at_all():
    assert "It has no options." in problems(STEPS, pick("euler", a=1), "solver step")[0][1]


def test_an_option_of_other_rows_is_told():
    told = problems(STEPS, pick("euler", churn=1), "solver step")[0][1]
    assert told.endswith("It has no options. 'churn' is an option of: sde.")


def test_bind_converts():
    assert bind(STEPS, pick("sde", churn="1e-1", kind="b"), "solver step")(7) == (7, 0.1, "b")
    assert bind({"folder": folder}, pick("folder", path=12), "source")() == ("12", None)
    assert bind(STEPS, Pick("euler"), "solver step")(7) == 7


def test_bind_refuses():
    with pytest.raises(ValueError, match="The solver step 'sde': churn=true is wrong because"):
        bind(STEPS, pick("sde", churn=True), "solver step")
