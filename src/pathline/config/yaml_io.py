"""Settings as YAML: read with the line of every key, written with a note behind every value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pathline.config.values import read_scalar

DEPTH = 8  # deeper nesting is no settings file


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
    if not path.is_file():
        raise FileNotFoundError(f"There is no settings file {path}; --config wants a YAML file.")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8: {error.reason}.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: this is no valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: this is no valid YAML: {error}.") from None
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


def read_value(text: str) -> Any:
    """A value as typed on the command line: a scalar, or in YAML's brackets or quotes."""
    if not text.startswith(("[", "{", '"', "'")):
        return read_scalar(text)
    try:
        return _plain(yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError:
        return text


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
            entries.append(Entry(key, _plain(value_node), origin))
    return entries


def _refuse_repeats(entries: list[Entry]) -> None:
    first: dict[str, str] = {}
    repeats = []
    for key, _, origin in entries:
        if key in first:
            repeats.append(f"{origin}: {key} is set twice, first at {first[key]}; keep one.")
        first.setdefault(key, origin)
    if repeats:
        raise ValueError("\n".join(repeats))


def _plain(node: yaml.Node | None, depth: int = 0) -> Any:
    if node and depth > DEPTH:
        raise ValueError(f"line {node.start_mark.line + 1}: this is nested too deep for settings.")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(part, depth + 1) for part in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value, depth + 1) for key, value in node.value}
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
