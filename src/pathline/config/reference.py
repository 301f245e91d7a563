"""Every setting with its meaning, type or range and default: as Markdown, or by key."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from textwrap import wrap
from typing import Any, get_type_hints

from pathline.config.layers import Tree, flatten
from pathline.config.meanings import field_meanings, option_meanings, sentence
from pathline.config.pick import Pick, Row, Table, function_of, options_of
from pathline.config.shared_options import SHARED
from pathline.config.values import describe_kind
from pathline.config.yaml_io import scalar

WIDTH = 108  # columns of the page


def settings_page(record: type, places: Mapping[str, str], tables: Mapping[str, Table]) -> str:
    """The settings of a record by section, then the rows of every table with their options."""
    lines = [*_section(record, "")]
    for place, what in places.items():
        lines += ["", f"### `{place}`: {what}", ""]
        lines += [f"Options are written `{place}.<option>=…`.", "", *_table(place, tables[place])]
    return "\n".join(lines) + "\n"


def _section(record: type, prefix: str) -> Iterator[str]:
    """A table of the plain settings of a section, then its sub-sections."""
    nested = {key: inner for key, inner in sections_of(record).items() if "." not in key}
    title = f"`{prefix.rstrip('.')}`" if prefix else "Top"
    about = "" if not prefix else sentence((record.__doc__ or "").partition("\n")[0])
    yield from (f"### {title}", "", *([about, ""] if about else []))
    # Plain settings first: Markdown has no way back from an inner heading to the outer one.
    for key, *parts in settings_of(record):
        yield from _entry(f"{prefix}{key}", *parts)
    for key, inner in nested.items():
        yield ""
        yield from _section(inner, f"{prefix}{key}.")


def sections_of(record: type, prefix: str = "") -> dict[str, type]:
    """Dotted key -> record of every section in a record."""
    sections: dict[str, type] = {}
    for name, kind in get_type_hints(record).items():
        if is_section(kind):
            sections |= {f"{prefix}{name}": kind} | sections_of(kind, f"{prefix}{name}.")
    return sections


def settings_of(record: type) -> Iterator[tuple[str, str, str, str]]:
    """(name, what it wants, default, meaning) of every setting in a record but its sections."""
    kinds, meanings = get_type_hints(record, include_extras=True), field_meanings(record)
    for f in fields(record):
        if not is_section(kinds[f.name]):
            yield f.name, *_columns(kinds[f.name], _default(f)), meanings[f.name]


def is_section(kind: Any) -> bool:
    """Whether a field holds further settings, not a value or a row."""
    return is_dataclass(kind) and kind is not Pick


def _default(f: Field) -> Any:
    value = f.default if f.default_factory is MISSING else f.default_factory()
    if not isinstance(value, Pick):
        return value
    options = ", ".join(f"{key}={scalar(option)}" for key, option in value.options.items())
    return f"{value.name} ({options})" if options else value.name


def _columns(kind: Any, default: Any) -> tuple[str, str]:
    """What a setting wants, and its default."""
    wants = "a row, by name" if kind is Pick else describe_kind(kind)
    return wants, "" if default is Parameter.empty else _plain(default)


def _entry(key: str, wants: str, default: str, meaning: str, indent: str = "") -> list[str]:
    """One setting as an item of a list, wrapped: its key, type or range, default, meaning."""
    shown = f"default `{default}`" if default else "required"
    return _wrapped(f"- `{key}` ({wants}; {shown}): {meaning}", indent)


def _wrapped(item: str, indent: str) -> list[str]:
    return wrap(
        item,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) + "}"
    return value if isinstance(value, str) and value else scalar(value)


def _table(place: str, table: Table) -> Iterator[str]:
    """The rows of a table, each with its options."""
    meanings = table_meanings(place, table)
    for name, row in table.items():
        yield from _wrapped(f"- **{name}**: {summary(row)}", "")
        for key, option in options_of(row).items():
            wants, default = _columns(option.kind, option.default)
            yield from _entry(key, wants, default, meanings[name][key], "  ")


def explain(
    record: type, tree: Tree, places: Mapping[str, str], tables: Mapping[str, Table]
) -> dict[str, str]:
    """Dotted key -> meaning, of every setting in the tree of a record."""
    meanings = {name: meaning for name, *_, meaning in settings_of(record)}
    for section, inner in sections_of(record).items():
        meanings |= {f"{section}.{name}": meaning for name, *_, meaning in settings_of(inner)}
    return {key: meanings.get(key) or _option(key, tree, places, tables) for key in flatten(tree)}


def _option(key: str, tree: Tree, places: Mapping[str, str], tables: Mapping[str, Table]) -> str:
    """The meaning of a row's name, of one of its options, or of a loss term; "" if unknown."""
    place, _, option = key.rpartition(".")
    table, row = place, flatten(tree).get(f"{place}.name", "")
    if place == "terms":
        table, row, option = "terms", option, "weight"
    elif place.startswith("terms."):
        table, row = "terms", place.removeprefix("terms.")
    if table not in places or row not in tables.get(table, {}):
        return ""
    if option in ("name", "weight") and (table == "terms" or option == "name"):
        return summary(tables[table][row])
    return table_meanings(table, tables[table])[row][option]


def summary(row: Row) -> str:
    """What a row is, in a line: the first of its docstring."""
    return sentence((function_of(row).__doc__ or "").strip().partition("\n")[0])


def table_meanings(place: str, table: Table) -> dict[str, dict[str, str]]:
    """Row -> option -> meaning: the shared one, the row's own, or that of another row."""
    by_row = {n: option_meanings(function_of(row), options_of(row)) for n, row in table.items()}
    others = {key: text for row in reversed(by_row.values()) for key, text in row.items() if text}

    def meaning(name: str, key: str) -> str:
        explicit = SHARED.get(f"{place}.{name}.{key}") or SHARED.get(f"{place}.{key}")
        return explicit or by_row[name].get(key) or others.get(key, "")

    return {n: {key: meaning(n, key) for key in options_of(row)} for n, row in table.items()}
