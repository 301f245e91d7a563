"""Layers of settings: nest a dotted key, lay one tree over another, build records of the result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from pathline.config.pick import Pick
from pathline.config.values import Problem, convert
from pathline.hints import closest

Tree = Mapping[str, Any]


def nest(key: str, value: Any) -> dict[str, Any]:
    """("a.b", 3) as {"a": {"b": 3}}."""
    first, _, rest = key.partition(".")
    return {first: nest(rest, value) if rest else value}


def merge(low: Tree, high: Tree) -> dict[str, Any]:
    """high laid over low, key by key; naming another row drops the old row's options.

    A branch with a `name` is a Pick and may be written as the bare name; one with a `weight` is a
    loss term and may be written as the bare number.
    """
    out = dict(low)
    for key, value in high.items():
        out[key] = _lay(out[key], value) if key in out else value
    return out


def _lay(low: Any, high: Any) -> Any:
    if isinstance(high, Mapping):
        low = low if isinstance(low, Mapping) else _shorthand(low)
    elif isinstance(low, Mapping) and _shorthand(high).keys() & low.keys():
        high = _shorthand(high)
    if not isinstance(high, Mapping):
        return high
    is_other_row = "name" in low and high.get("name", low["name"]) != low["name"]
    return high if is_other_row else merge(low, high)


def _shorthand(value: Any) -> dict[str, Any]:
    """The branch that a bare row name or weight stands for; else empty."""
    if isinstance(value, str):
        return {"name": value}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value} if is_number else {}


def put(tree: Tree, key: str, value: Any) -> dict[str, Any]:
    """The tree with this value at a dotted key, in place of all that was there."""
    first, _, rest = key.partition(".")
    below = tree.get(first, {})
    below = below if isinstance(below, Mapping) else _shorthand(below)
    return {**tree, first: put(below, rest, value) if rest else value}


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, for every leaf; an empty branch is a leaf."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            out |= flatten(value, dotted)
        else:
            out[dotted] = value
    return out


def build(cls: type, tree: Tree, problems: list[Problem] | None = None) -> Any:
    """A tree as frozen dataclasses of type `cls`, every value converted to its field's type.

    Finds all unknown keys and wrong values before it complains. Given a list `problems`, it puts
    them there and builds the rest with defaults; else ValueError names them all.
    """
    wrong: list[Problem] = []
    kinds = keys_of(cls)
    picks = tuple(f"{key}." for key, kind in kinds.items() if kind is Pick)
    names = [*kinds, *(key for key in flatten(tree) if key.startswith(picks))]
    record = _record(cls, tree, "", wrong, lambda key: _suggest(key, names))
    if problems is not None:
        problems += wrong
    elif wrong:
        raise ValueError("\n".join(f"{key} {message}" for key, message in wrong))
    return record


def keys_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key there is in `cls` with its type, sections included."""
    keys: dict[str, Any] = {}
    for name, kind in _kinds(cls).items():
        keys[f"{prefix}{name}"] = kind
        if isinstance(kind, type) and is_dataclass(kind) and kind is not Pick:
            keys |= keys_of(kind, f"{prefix}{name}.")
    return keys


def _kinds(cls: type) -> dict[str, Any]:
    """The fields of a record with their types; constants of its class are no settings."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def to_tree(record: Any) -> Any:
    """The plain tree of a record: dicts, lists and scalars; `build` turns it back."""
    if isinstance(record, Pick):
        return {"name": record.name} | {k: to_tree(v) for k, v in record.options.items()}
    if is_dataclass(record):
        return {f.name: to_tree(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Mapping):
        return {key: to_tree(value) for key, value in record.items()}
    return list(record) if isinstance(record, tuple) else record


def _suggest(key: str, names: Iterable[str]) -> str:
    """A known key with the same last word, else the most alike, beside it first, as a hint."""
    home, _, last = key.rpartition(".")
    others = [other for other in dict.fromkeys(names) if other != key]
    same = [other for other in others if other.rpartition(".")[2] == last]
    if same:
        return f" Did you mean {same[0]}?"
    for candidates in ([o for o in others if o.rpartition(".")[0] == home], others):
        by_last = {other.rpartition(".")[2]: other for other in reversed(candidates)}
        if name := closest(last, by_last, cutoff=0.7):
            return f" Did you mean {by_last[name]}?"
    return ""


def _record(cls: type, tree: Any, at: str, problems: list[Problem], hint: Callable) -> Any:
    kinds = _kinds(cls)
    if not isinstance(tree, Mapping):
        came = "nothing" if tree is None else repr(tree)
        wants = f"is a section and wants settings under it ({', '.join(kinds)}), got {came}."
        problems.append(Problem(at.rstrip("."), wants))
        return cls()
    for key in tree:
        if key not in kinds:
            problems.append(Problem(f"{at}{key}", f"is not a setting.{hint(f'{at}{key}')}"))
    # Keys that are missing keep their defaults; a wrong value is noted and the rest still built.
    values = {}
    for f in fields(cls):
        if f.name in tree:
            values[f.name] = _value(f, kinds[f.name], tree[f.name], f"{at}{f.name}", problems, hint)
    return cls(**values)


def _value(
    f: Field, kind: Any, value: Any, key: str, problems: list[Problem], hint: Callable
) -> Any:
    if kind is Pick:
        return _pick(f, value, key, problems)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _record(kind, value, f"{key}.", problems, hint)
    try:
        return convert(value, kind)
    except ValueError as error:
        problems.append(Problem(key, f"{error}."))
        return _default(f)


def _pick(f: Field, value: Any, key: str, problems: list[Problem]) -> Any:
    if isinstance(value, str):
        return Pick(value)
    if isinstance(value, Mapping) and "name" not in value:
        value = to_tree(_default(f)) | dict(value)
    if isinstance(value, Mapping) and isinstance(value["name"], str):
        return Pick(value["name"], {k: v for k, v in value.items() if k != "name"})
    came = "nothing" if value is None else repr(value)
    problems.append(Problem(key, f"wants a name (or a mapping with a `name`), got {came}."))
    return _default(f)


def _default(f: Field) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()
