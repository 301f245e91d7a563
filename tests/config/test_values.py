"""What text means, and how a value is read as a type."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathline.config.values import convert, describe_kind, is_typeable, read_scalar
from pathline.ranges import NotNegativeFloat, Positive, Seed, ShareBelowOne


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("1e-4", 1e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),  # YAML 1.1 would read these four as false, 7, 90 and a date
        ("007", "007"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("none", "none"),  # the name of rows
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("1__0", "1__0"),
    ],
)
def test_scalars(text, value):
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "kind", "got"),
    [
        (3, float, 3.0),
        ("1e-4", float, 1e-4),
        ("1e3", int, 1000),
        (1000.0, int, 1000),
        ("off", bool, False),
        ("Yes", bool, True),
        (123, str, "123"),
        ("auto", Literal["auto", "fp32"], "auto"),
        (None, Literal["refuse", "null"], "null"),
        ("2", Literal[1, 2], 2),
        ([0.9, "0.99"], tuple[float, ...], (0.9, 0.99)),
        ("0.9,0.99", tuple[float, ...], (0.9, 0.99)),
        (0.9, tuple[float, ...], (0.9,)),
        ([1, "a"], tuple[int, str], (1, "a")),
        ("1e3", Positive, 1000),
        (None, ShareBelowOne | None, None),
        (None, float | None, None),
        ("none", float | None, None),
        ("0.5", float | None, 0.5),
        ("5", int | str, "5"),
        ({"delta": 1}, float | dict, {"delta": 1}),
        ({"mse": "1"}, dict[str, float | dict], {"mse": 1.0}),
        ("a/b", Path, Path("a/b")),
        ("as it is", Any, "as it is"),
        ("float32", Literal["auto", "fp32"], "fp32"),
        ("bfloat16", Literal["fp32", "bf16"], "bf16"),
    ],
)
def test_convert(value, kind, got):
    converted = convert(value, kind)
    assert converted == got
    assert type(converted) is type(got)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (True, int, "a whole number"),
        (True, float, "a number"),
        (1.5, int, "a whole number"),
        ("many", int, "many is wrong"),
        (float("nan"), float, "a number"),
        (float("inf"), int, "a whole number"),
        (1, bool, "true or false"),
        (None, str, "null is wrong"),
        (1.1, str, "quotes"),
        ("fp8", Literal["fp32", "bf16"], "fp32, bf16"),
        (
            "float16",
            Literal["fp32", "bf16"],
            "float16 is wrong .* one of fp32, bf16",
        ),
        (True, Literal["True"], "True"),
        ([0.9, "x"], tuple[float, ...], "a list, each a number"),
        ([1], tuple[int, int], "a list of 2"),
        ("x", float | None, "a number or null"),
        ({"mse": "x"}, dict[str, float], "mse=x is wrong because it must be a number"),
        ("x", dict[str, float], "a mapping"),
        (10**400, float, "a number"),
        ("9" * 5000, int, "999… is wrong"),
        (0, Positive, r"^0 is wrong because it must be a whole number of 1 or more\.$"),
        (1.5, Positive, "a whole number of 1 or more"),
        (True, Positive, "true is wrong"),
        (10**10, Positive, "1 or more and at most 1000000000"),
        (2**63, Seed, f"in .0, {2**63 - 1}."),
        (1.0, ShareBelowOne, r"must be a number in \[0, 1\)"),
        ([0.9, 1.0], tuple[ShareBelowOne, ...], r"\[0.9, 1.0\] is wrong .* in \[0, 1\)"),
        (-1, NotNegativeFloat | None, "a number of 0 or more or null"),
    ],
)
def test_refused(value, kind, said):
    with pytest.raises(ValueError, match=said):
        convert(value, kind)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_its_text(number):
    assert convert(repr(number), float) == number


@given(st.integers())
def test_every_integer_survives_its_text(number):
    assert read_scalar(str(number)) == number


def test_typeable():
    assert all(map(is_typeable, (int, str, float | None, Literal["a"], tuple[float, ...], Any)))
    assert not any(map(is_typeable, (type(lambda: 0), object, tuple[object, ...], int | object)))


def test_wanted_in_words():
    assert describe_kind(int | None) == "a whole number or null"
    assert describe_kind(Literal["a", "b"]) == "one of a, b"
