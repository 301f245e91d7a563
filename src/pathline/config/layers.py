"""Layers of settings: nest a dotted key, lay one tree over another, build records of the result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pathline.config.pick import Pick
from pathline.config.values import Problem, convert, shown
from pathline.hints import closest

Tree = Mapping[str, Any]
NO_ROW = "is wrong because it must be the name of a row."


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
    if high is None and isinstance(low, Mapping):
        return low  # an empty section says nothing
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


def is_in(tree: Tree, key: str) -> bool:
    """Whether a tree has a value or a branch at a dotted key."""
    first, _, rest = key.partition(".")
    if first not in tree:
        return False
    below = tree[first]
    return not rest or (isinstance(below, Mapping) and is_in(below, rest))


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
        raise ValueError("\n".join(map(str, wrong)))
    return record


def keys_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key there is in `cls` with its type and range, sections included."""
    keys: dict[str, Any] = {}
    for name, kind in _kinds(cls).items():
        keys[f"{prefix}{name}"] = kind
        if isinstance(kind, type) and is_dataclass(kind) and kind is not Pick:
            keys |= keys_of(kind, f"{prefix}{name}.")
    return keys


def _kinds(cls: type) -> dict[str, Any]:
    """The fields of a record with their types; constants of its class are no settings."""
    hints = get_type_hints(cls, include_extras=True)
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


def is_branch(kind: Any) -> bool:
    """Whether further keys stand below one of this kind: a section, a row, a mapping of terms."""
    return is_dataclass(kind) or get_origin(kind) is dict


def misplaced(kind: Any, value: Any) -> str:
    """What is wrong with a value where a section, a row or a mapping stands; "" if nothing."""
    if value is None or isinstance(value, Mapping) or not is_branch(kind):
        return ""
    if kind is Pick:
        return "" if isinstance(value, str) else f"={shown(value)} {NO_ROW}"
    inner = f" ({', '.join(_kinds(kind))})" if isinstance(kind, type) and is_dataclass(kind) else ""
    return f"={shown(value)} is wrong because it is a section. Write settings under it{inner}."


def _record(cls: type, tree: Any, at: str, problems: list[Problem], hint: Callable) -> Any:
    if message := misplaced(cls, tree):
        problems.append(Problem(at.rstrip("."), message))
        return cls()
    kinds, tree = _kinds(cls), tree or {}
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
    # Each entry of a mapping is a setting with its own key.
    if get_origin(kind) is dict and isinstance(value, Mapping):
        inner = get_args(kind)[1]
        return {k: _convert(v, inner, f"{key}.{k}", problems, None) for k, v in value.items()}
    return _convert(value, kind, key, problems, _default(f))


def _convert(value: Any, kind: Any, key: str, problems: list[Problem], otherwise: Any) -> Any:
    """The value as its kind; a wrong one is a problem, and `otherwise` takes its place."""
    try:
        return convert(value, kind)
    except ValueError as error:
        problems.append(Problem(key, f"={error}"))
        return otherwise


def _pick(f: Field, value: Any, key: str, problems: list[Problem]) -> Any:
    if message := misplaced(Pick, value):
        problems.append(Problem(key, message))
        return _default(f)
    if isinstance(value, str):
        return Pick(value)
    value = value or {}
    if "name" not in value:
        value = to_tree(_default(f)) | dict(value)
    name = value["name"]
    if not isinstance(name, str):
        problems.append(Problem(f"{key}.name", f"={shown(name)} {NO_ROW}"))
        return _default(f)
    return Pick(name, {k: v for k, v in value.items() if k != "name"})


def _default(f: Field) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()
