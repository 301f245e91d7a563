"""Every setting with its meaning, type or range and default, as Markdown."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from textwrap import wrap
from typing import Any, get_type_hints

from pathline.config.meanings import field_meanings, option_meanings, sentence
from pathline.config.pick import Pick, Table, function_of, options_of
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
    kinds = get_type_hints(record, include_extras=True)
    meanings = field_meanings(record)
    nested = [f for f in fields(record) if is_section(kinds[f.name])]
    title = f"`{prefix.rstrip('.')}`" if prefix else "Top"
    about = "" if not prefix else sentence((record.__doc__ or "").partition("\n")[0])
    yield from (f"### {title}", "", *([about, ""] if about else []))
    # Plain settings first: Markdown has no way back from an inner heading to the outer one.
    for f in fields(record):
        if f not in nested:
            kind, default = kinds[f.name], _default(f)
            yield from _entry(f"{prefix}{f.name}", meanings[f.name], kind, default)
    for f in nested:
        yield ""
        yield from _section(kinds[f.name], f"{prefix}{f.name}.")


def is_section(kind: Any) -> bool:
    """Whether a field holds further settings, not a value or a row."""
    return is_dataclass(kind) and kind is not Pick


def _default(f: Field) -> Any:
    value = f.default if f.default_factory is MISSING else f.default_factory()
    if not isinstance(value, Pick):
        return value
    options = ", ".join(f"{key}={scalar(option)}" for key, option in value.options.items())
    return f"{value.name} ({options})" if options else value.name


def _entry(key: str, meaning: str, kind: Any, default: Any, indent: str = "") -> list[str]:
    """One setting as an item of a list, wrapped: its key, type or range, default, meaning."""
    words = "a row, by name" if kind is Pick else describe_kind(kind)
    shown = "required" if default is Parameter.empty else f"default `{_plain(default)}`"
    return _wrapped(f"- `{key}` ({words}; {shown}): {meaning}", indent)


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
        line = sentence((function_of(row).__doc__ or "").strip().partition("\n")[0])
        yield from _wrapped(f"- **{name}**: {line}", "")
        for key, option in options_of(row).items():
            yield from _entry(key, meanings[name][key], option.kind, option.default, "  ")


def table_meanings(place: str, table: Table) -> dict[str, dict[str, str]]:
    """Row -> option -> meaning: the shared one, the row's own, or that of another row."""
    by_row = {n: option_meanings(function_of(row), options_of(row)) for n, row in table.items()}
    others = {key: text for row in reversed(by_row.values()) for key, text in row.items() if text}

    def meaning(name: str, key: str) -> str:
        explicit = SHARED.get(f"{place}.{name}.{key}") or SHARED.get(f"{place}.{key}")
        return explicit or by_row[name].get(key) or others.get(key, "")

    return {n: {key: meaning(n, key) for key in options_of(row)} for n, row in table.items()}
