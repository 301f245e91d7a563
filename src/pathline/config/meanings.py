"""The one-line meaning of every setting, read where it is written: at a field or in a docstring.

A field of a settings record has its meaning in the comment behind it or in the lines above it. An
option of a row has it in the row's docstring, as `option: meaning.`; several may share one.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import takewhile

FIELD = re.compile(r"    (\w+): .*?(?:  # (.*))?")
HEAD = re.compile(r"(?:^|(?<=[.;)]) )((?:\w+, )*\w+): ")
COMMENT = re.compile(r"    # (.*)")


def field_meanings(record: type) -> dict[str, str]:
    """Name -> meaning of the fields of a dataclass; a field without a comment has its base's."""
    meanings: dict[str, str] = {}
    for cls in reversed(record.__mro__[:-1]):
        meanings |= {name: text for name, text in _comments(cls).items() if text}
    return {f.name: meanings.get(f.name, "") for f in fields(record)}


def _comments(cls: type) -> dict[str, str]:
    """The comment of every field that the source of a class writes."""
    lines = inspect.getsource(cls).splitlines()
    meanings: dict[str, str] = {}
    for number, line in enumerate(lines):
        if not (match := FIELD.fullmatch(line)):
            continue
        above = takewhile(bool, map(COMMENT.fullmatch, reversed(lines[:number])))
        parts = [text[1] for text in above if text][::-1]
        meanings[match[1]] = sentence(" ".join([*parts, *filter(None, [match[2]])]))
    return meanings


def option_meanings(row: Callable, names: Iterable[str]) -> dict[str, str]:
    """Name -> meaning of the options of a row, from its schema or its docstring."""
    if schema := getattr(row, "schema", None):
        return {
            "size": "A named size; options that are null are as the size has them."
        } | field_meanings(schema)
    text = " ".join((inspect.getdoc(row) or "").split())
    options = set(names)
    meanings: dict[str, str] = {}
    # A meaning ends where the next `name:` or a sentence about errors begins.
    heads = list(HEAD.finditer(text))
    for head, following in zip(heads, [*heads[1:], None], strict=False):
        meaning = text[head.end() : following.start() + 1 if following else len(text)]
        meaning = re.split(r"(?<=[.)]) (?=[A-Z])", meaning)[0]
        meanings |= {name: sentence(meaning) for name in head[1].split(", ") if name in options}
    return meanings


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    text = text.strip().rstrip(";.")
    starts_with_word = text[:1].islower() and not re.match(r"\w*[=_.(/]|\w+:", text)
    return (text[:1].upper() + text[1:] if starts_with_word else text) + "." if text else ""
