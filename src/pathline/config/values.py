"""Plain values: what a piece of text means, and how a value is read as the type a setting wants."""

import math
import re
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pathline.dtypes import short_name
from pathline.ranges import LARGEST, Range, holds, range_words

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


LONGEST_NUMBER = 400  # characters; Python refuses to read integers of thousands
SHOWN = 60  # most characters of a wrong value in a message


class Problem(NamedTuple):
    """What is wrong with one setting."""

    key: str  # dotted
    message: str  # "=VALUE is wrong because …", a sentence, or what goes on after the key
    origin: str = ""  # where the value is from; "": where the key was set last

    def __str__(self) -> str:
        """The key and what is wrong with it."""
        between = "" if self.message[:1] == "=" else ": " if self.message[:1].isupper() else " "
        key = self.key.removesuffix(".name") if between == ": " else self.key
        return f"{key}{between}{self.message}"


def read_scalar(text: str) -> Any:
    """The value of unquoted text: whole number, number, true, false, null, or the text itself.

    Unlike YAML 1.1 it takes 1e-4 for a number and leaves `no` and `on` as words.
    """
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if len(text) > LONGEST_NUMBER:
        return text
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
    if origin is Annotated:
        return is_typeable(inner[0])
    return origin in (tuple, dict, Union, UnionType) and all(
        is_typeable(part) for part in inner if part is not Ellipsis
    )


def is_number(kind: Any) -> bool:
    """Whether values of this kind are numbers or null, within a range or without."""
    if get_origin(kind) is Annotated:
        return is_number(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return all(part is NoneType or is_number(part) for part in get_args(kind))
    return kind in (int, float)


def describe_kind(kind: Any) -> str:
    """A kind in words, for messages and lists, with its range."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Annotated:
        ranges = [range_words(note) for note in inner[1:] if isinstance(note, Range)]
        return " ".join([describe_kind(inner[0]), *ranges])
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
    """`value` read as `kind` and in its range; ValueError "VALUE is wrong because …" says why not.

    The message goes on from "key=".
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return READERS[kind](value)
    if origin is Annotated:
        return _ranged(value, kind)
    if origin is Literal:
        return _choice(value, inner)
    if origin is tuple:
        return _tuple(value, kind)
    if origin in (Union, UnionType):
        return _union(value, kind)
    if kind is NoneType and value in (None, "null", "none"):
        return None
    if (kind is dict or origin is dict) and isinstance(value, Mapping):
        return _mapping(value, inner[1]) if inner else dict(value)
    if kind in (Any, Parameter.empty):
        return value
    raise _refusal(value, kind)


def shown(value: Any) -> str:
    """A value as a person types it, cut to a length that a message can hold."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value[:SHOWN]))}]"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {shown(part)}' for key, part in value.items())}}}"
    else:
        text = str(value)
    text = text if text and text.isprintable() else repr(text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _refusal(value: Any, kind: Any, hint: str = "") -> ValueError:
    return ValueError(f"{shown(value)} is wrong because it must be {describe_kind(kind)}{hint}.")


def _ranged(value: Any, kind: Any) -> Any:
    plain, *notes = get_args(kind)
    try:
        number = convert(value, plain)
    except ValueError:
        raise _refusal(value, kind) from None
    for allowed in (note for note in notes if isinstance(note, Range)):
        if not holds(allowed, number):
            # the limit of all numbers is not part of a range's words
            limit = f" and at most {LARGEST}" if number > LARGEST == allowed.high else ""
            raise _refusal(value, kind, limit)
    return number


def _finite(value: Any, kind: type) -> int | float:
    number = read_scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _refusal(value, kind)
    try:
        is_finite = math.isfinite(number)
    except OverflowError:  # an integer beyond every float
        is_finite = False
    if not is_finite:
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
        raise _refusal(value, str, hint)
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


def _mapping(value: Mapping, kind: Any) -> dict[str, Any]:
    converted = {}
    for key, part in value.items():
        try:
            converted[str(key)] = convert(part, kind)
        except ValueError as error:
            raise ValueError(f"{shown(value)} is wrong because {key}={error}") from None
    return converted


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
