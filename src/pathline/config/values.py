"""Plain values: what a piece of text means, and how a value is read as the type a setting wants."""

import math
import re
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pathline.dtypes import short_name

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Problem(NamedTuple):
    """What is wrong with one setting."""

    key: str  # dotted
    message: str


def read_scalar(text: str) -> Any:
    """The value of unquoted text: whole number, number, true, false, null, or the text itself.

    Unlike YAML 1.1 it takes 1e-4 for a number and leaves `no` and `on` as words.
    """
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def is_typeable(kind: Any) -> bool:
    """Whether a person can type a value of this kind: numbers, words, choices and lists of them."""
    if kind in (*PLAIN, Any, NoneType, dict, Parameter.empty):
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return True
    return origin in (tuple, dict, Union, UnionType) and all(
        is_typeable(part) for part in inner if part is not Ellipsis
    )


def describe_kind(kind: Any) -> str:
    """A kind in words, for messages and lists."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(str(choice) for choice in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"a list, each {describe_kind(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}: {', '.join(describe_kind(part) for part in inner)}"
    if origin in (Union, UnionType):
        return " or ".join(describe_kind(part) for part in inner)
    if kind is dict or origin is dict:
        return "a mapping"
    return "null" if kind is NoneType else "any value"


def convert(value: Any, kind: Any) -> Any:
    """`value` read as `kind`; ValueError says what was wanted and what came."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return READERS[kind](value)
    if origin is Literal:
        return _choice(value, inner)
    if origin is tuple:
        return _tuple(value, kind)
    if origin in (Union, UnionType):
        return _union(value, kind)
    if kind is NoneType and value in (None, "null", "none"):
        return None
    if (kind is dict or origin is dict) and isinstance(value, Mapping):
        return {str(k): _entry(k, v, inner[1]) if inner else v for k, v in value.items()}
    if kind in (Any, Parameter.empty):
        return value
    raise _refusal(value, kind)


def _refusal(value: Any, kind: Any) -> ValueError:
    came = "nothing" if value is None else repr(value)
    return ValueError(f"wants {describe_kind(kind)}, got {came}")


def _finite(value: Any, kind: type) -> int | float:
    number = read_scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise _refusal(value, kind)
    return number


def _number(value: Any) -> float:
    return float(_finite(value, float))


def _integer(value: Any) -> int:
    number = _finite(value, int)
    if number != int(number):
        raise _refusal(value, int)
    return int(number)


def _truth(value: Any) -> bool:
    truth = WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise _refusal(value, bool)
    return truth


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | Path):
        hint = "" if value is None else "; put it in quotes if it is meant as text"
        raise ValueError(f"{_refusal(value, str)}{hint}")
    return str(value)


def _choice(value: Any, choices: tuple) -> Any:
    if value is None and "null" in choices:  # the word null is also YAML's nothing
        return "null"
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
        if not isinstance(value, bool) and str(choice) == str(value):
            return choice
    if isinstance(value, str) and short_name(value) in choices:  # float32 for fp32
        return short_name(value)
    raise _refusal(value, Literal[choices])


def _tuple(value: Any, kind: Any) -> tuple:
    # On a command line a list is words between commas, and one value a list of one.
    if isinstance(value, str):
        value = [read_scalar(part.strip()) for part in value.strip("[]()").split(",")]
    elif not isinstance(value, list | tuple):
        value = [value]
    inner = get_args(kind)
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(value):
        raise _refusal(value, kind)
    try:
        return tuple(convert(part, k) for part, k in zip(value, kinds, strict=True))
    except ValueError:
        raise _refusal(value, kind) from None


def _entry(key: Any, value: Any, kind: Any) -> Any:
    try:
        return convert(value, kind)
    except ValueError as error:
        raise ValueError(f"at {key!r} {error}") from None


def _union(value: Any, kind: Any) -> Any:
    parts = get_args(kind)
    exact = [part for part in parts if isinstance(part, type) and type(value) is part]
    for part in [*exact, *parts]:
        try:
            return convert(value, part)
        except ValueError:
            continue
    raise _refusal(value, kind)


READERS = {int: _integer, float: _number, bool: _truth, str: _text, Path: lambda v: Path(_text(v))}
