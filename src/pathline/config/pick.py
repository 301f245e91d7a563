"""A Pick names a row of a table and its options; `bind` makes it a function.

A row's keyword-only parameters are its settings. Left out is what nobody can type (a function, a
tensor, a record) and what begins with an underscore: such a parameter is wiring, handed over where
parts are joined. A row that has more than its settings (what it needs of other rows, what it
suggests for them) is a NamedTuple whose first field is the function.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pathline.config.values import convert, is_typeable
from pathline.hints import listing, nearest

Row = Callable | tuple[Any, ...]
Table = Mapping[str, Row]


@dataclass(frozen=True)
class Pick:
    """A row by name, and its options. As YAML: `name`, or {name: …, option: …, …}."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def pick(name: str, /, **options: Any) -> Pick:
    """Pick, with the options as keywords."""
    return Pick(name, options)


class Option(NamedTuple):
    """One setting of a row."""

    kind: Any  # its annotation
    default: Any  # inspect.Parameter.empty: it must be given


def function_of(row: Row) -> Callable:
    """The function of a row: the row itself, or the first field of its record."""
    return row[0] if isinstance(row, tuple) else row


def options_of(row: Row) -> dict[str, Option]:
    """The settings of a row: its keyword-only parameters that a person can type."""
    parameters = inspect.signature(function_of(row), eval_str=True).parameters.values()
    options = {
        p.name: Option(p.annotation, p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and not p.name.startswith("_") and is_typeable(p.annotation)
    }
    assert "name" not in options, f"{row} has an option 'name', which names the row itself"
    return options


def choose(table: Table, name: str, what: str) -> Row:
    """The row called `name`; ValueError names the nearest and lists them all."""
    if name not in table:
        raise ValueError(
            f"There is no {what} called {name!r}.{nearest(name, table)} "
            f"There are: {listing(table)}."
        )
    return table[name]


def _of(table: Table, option: str) -> str:
    """The rows that have such an option, in words."""
    rows = [name for name, row in table.items() if option in options_of(row)]
    return f" {option!r} is an option of: {listing(rows)}." if rows else ""


def problems(table: Table, chosen: Pick, what: str) -> list[tuple[str, str]]:
    """All that is wrong with a pick, as (option, message); the option "name" is the row itself.

    A message is a sentence, or "=VALUE is wrong because …", which goes on from the option.
    """
    try:
        options = options_of(choose(table, chosen.name, what))
    except ValueError as error:
        return [("name", str(error))]
    # All faults at once: unknown options, wrong values, missing ones.
    title = f"The {what} {chosen.name!r}"
    takes = f"It takes: {listing(options)}." if options else "It has no options."
    wrong = [
        (key, f"{title} takes no option {key!r}.{nearest(key, options)} {takes}{_of(table, key)}")
        for key in chosen.options
        if key not in options
    ]
    for key, option in options.items():
        if key in chosen.options:
            try:
                convert(chosen.options[key], option.kind)
            except ValueError as error:
                wrong.append((key, f"={error}"))
        elif option.default is inspect.Parameter.empty:
            wrong.append((key, f"{title} needs {key}, which is not given."))
    return wrong


def bind(table: Table, chosen: Pick, what: str) -> partial:
    """The picked row with its options, converted, as a function of the rest."""
    wrong = problems(table, chosen, what)
    if wrong:
        raise ValueError(
            "\n".join(
                f"The {what} {chosen.name!r}: {key}{message}" if message[:1] == "=" else message
                for key, message in wrong
            )
        )
    row = function_of(table[chosen.name])
    options = options_of(row)
    values = {key: convert(value, options[key].kind) for key, value in chosen.options.items()}
    return partial(row, **values)


def settled(table: Table, chosen: Pick, what: str) -> dict[str, Any]:
    """Every option of the picked row, converted; those left out at their defaults."""
    usual = {key: option.default for key, option in options_of(table[chosen.name]).items()}
    return usual | bind(table, chosen, what).keywords
