"""Settings as YAML: read with the line of every key, written with a note behind every value."""

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pathline.config.values import read_scalar

DEPTH = 8  # deeper nesting is no settings file
LARGEST_FILE = 2**20  # bytes
MOST_VALUES = 10_000  # with aliases written out


class Entry(NamedTuple):
    """One value of a file or of the command line."""

    key: str  # dotted
    value: Any
    origin: str  # "mine.yaml:3", "command line"


def read_file(path: Path) -> list[Entry]:
    """Every value of a YAML file in order; sections stand before what is in them, with value {}.

    Raises FileNotFoundError, or ValueError (with the line) if the file is no YAML mapping, is empty
    or has a key twice.
    """
    node = _compose(_read_text(path), f"{path}:")
    # An empty file is a mistake rather than no settings.
    if node is None:
        raise ValueError(f"{path} is empty; write settings such as `train: {{updates: 500}}`.")
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(
            f"{path}:1: a settings file is a mapping (`key: value` lines), this one is not."
        )
    entries = _entries(node, "", path)
    _refuse_repeats(entries)
    return entries


def _read_text(path: Path) -> str:
    """The text of a settings file; a byte-order mark is left out."""
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a settings file; --config wants a file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no settings file {path}; --config wants a YAML file.")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is no settings file: it has more than {LARGEST_FILE} bytes.")
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{path} is text in UTF-16 or UTF-32. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: this is no text in UTF-8. Save it as UTF-8.") from None


def _compose(text: str, origin: str) -> yaml.Node | None:
    """The nodes of YAML text. Raises ValueError, which begins with the origin, with its line."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node and _size(node, {}) > MOST_VALUES:
            raise ValueError(
                f"{origin} this is no settings file: with its aliases written out it has more than "
                f"{MOST_VALUES} values, or repeats itself without end."
            )
        return node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{origin}{line}: this is no valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{origin} this is no valid YAML: {reason}.") from None
    except RecursionError:
        raise ValueError(f"{origin} this is nested too deep for settings.") from None


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values in a node with its aliases written out; one in itself counts as many."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_VALUES  # until it is counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else [pair])]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in flat)
    return sizes[id(node)]


def read_value(text: str) -> Any:
    """A value as typed on the command line: a scalar, or in YAML's brackets or quotes.

    Raises ValueError for brackets that hold no settings: nested too deep, a key twice.
    """
    if not text.startswith(("[", "{", '"', "'")):
        return read_scalar(text)
    try:
        node = _compose(text, "")
    except ValueError:
        return text
    return _plain(node)


def expand(entry: Entry) -> list[Entry]:
    """An entry as a file would have it: of a mapping first the section, then each value in it."""
    if not isinstance(entry.value, Mapping):
        return [entry]
    inner = [Entry(f"{entry.key}.{key}", part, entry.origin) for key, part in entry.value.items()]
    return [entry._replace(value={}), *(leaf for part in inner for leaf in expand(part))]


def write(tree: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """A tree of settings as YAML. notes: dotted key -> comment behind its value."""
    lines = list(_lines(tree, "", 0))
    width = min(max((len(text) for text, _ in lines), default=0), 48)
    notes = notes or {}
    noted = (f"{text:<{width}}  # {notes[key]}" if key in notes else text for text, key in lines)
    return "\n".join(noted) + "\n"


def _entries(node: yaml.MappingNode, prefix: str, path: Path) -> list[Entry]:
    entries = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{path}:{line}: a key must be a word, not a list or mapping.")
        key = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
        if key.count(".") > DEPTH:
            raise ValueError(f"{path}:{line}: {key} is nested too deep for settings.")
        origin = f"{path}:{line}"
        # A section is an entry too, for it may be empty or wrong as a whole.
        if isinstance(value_node, yaml.MappingNode):
            entries += [Entry(key, {}, origin), *_entries(value_node, key, path)]
        else:
            try:
                entries.append(Entry(key, _plain(value_node), origin))
            except ValueError as error:
                raise ValueError(f"{origin}: {key}: {error}") from None
    return entries


def _refuse_repeats(entries: list[Entry]) -> None:
    first: dict[str, str] = {}
    repeats = []
    for key, value, origin in entries:
        # a bare value is also a row's `name` or a term's `weight`
        bare = [] if value in (None, {}) else [f"{key}.name", f"{key}.weight"]
        for name in (key, *bare):
            if name in first:
                repeats.append(f"{origin}: {name} is set twice, first at {first[name]}; keep one.")
            first.setdefault(name, origin)
    if repeats:
        raise ValueError("\n".join(repeats))


def _plain(node: yaml.Node | None, depth: int = 0) -> Any:
    if node and depth > DEPTH:
        raise ValueError(f"line {node.start_mark.line + 1}: this is nested too deep for settings.")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(part, depth + 1) for part in node.value]
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if repeats := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{', '.join(sorted(repeats))} is set twice; keep one.")
        return {
            key: _plain(value, depth + 1) for key, (_, value) in zip(keys, node.value, strict=True)
        }
    if isinstance(node, yaml.ScalarNode):
        return read_scalar(node.value) if node.style is None else node.value
    return None


def _lines(tree: Mapping[str, Any], prefix: str, depth: int):
    for key, value in tree.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            yield f"{'  ' * depth}{key}:", dotted
            yield from _lines(value, dotted, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {scalar(value)}", dotted


def scalar(value: Any) -> str:
    """A value as YAML writes it on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(scalar(part) for part in value)}]"
    if isinstance(value, Path):
        value = str(value)
    style = {"width": float("inf"), "default_flow_style": True, "allow_unicode": True}
    text = yaml.safe_dump(value, **style).removesuffix("\n").removesuffix("\n...")
    if not isinstance(value, str):
        return text
    # Without quotes where it reads back as this text: 1e-3, null and yes would not.
    if value.isprintable() and (text[:1] in "'\"" or read_scalar(text) == value):
        return text
    style["allow_unicode"] = value.isprintable()
    return yaml.safe_dump(value, default_style='"', **style).removesuffix("\n")
