"""What the layers of settings say: overrides as entries, entries as a tree, blame for problems."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pathline.config.layers import flatten, is_branch, keys_of, merge, misplaced, nest
from pathline.config.values import Problem
from pathline.config.yaml_io import Entry, expand, read_value

COMMAND_LINE = "command line"


def read_override(text: str) -> list[Entry]:
    """ "key=value" of the command line. Raises ValueError for what is no setting."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(
            f"{text!r} is no setting: write key=value, for example train.updates=500 "
            "(the preset or folder comes first, and only one)."
        )
    try:
        return expand(Entry(key.strip(), read_value(value.strip()), COMMAND_LINE))
    except ValueError as error:
        raise ValueError(f"{COMMAND_LINE}: {key.strip()}: {error}") from None


def tree_of(layer: Iterable[Entry]) -> dict[str, Any]:
    """One layer as a tree. Short keys first, so that `a=row a.option=1` may stand in any order."""
    tree: dict[str, Any] = {}
    for entry in sorted(layer, key=lambda entry: entry.key.count(".")):
        tree = merge(tree, nest(entry.key, entry.value))
    return tree


def keys_set(entry: Entry) -> list[str]:
    """The keys that an entry sets; a bare value may be a row's name or a term's weight."""
    if isinstance(entry.value, Mapping):
        return [entry.key, *(flatten(entry.value, entry.key) if entry.value else ())]
    return [entry.key, f"{entry.key}.name", f"{entry.key}.weight"]


def well_placed(record: type, layer: Iterable[Entry], wrong: list[Problem]) -> Iterator[Entry]:
    """The entries of a layer but those of sections that say nothing or are no section at all.

    A list where a section stands is a problem, and is not laid over what other layers say of it.
    """
    kinds = keys_of(record)
    for entry in layer:
        kind = kinds.get(entry.key)
        if message := misplaced(kind, entry.value):
            wrong.append(Problem(entry.key, message, entry.origin))
        elif entry.value is not None or not is_branch(kind):
            yield entry


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Where a wrong key was set: itself, its row's name, or the section it stands in."""
    while key:
        for candidate in (key, f"{key}.name"):
            if candidate in origins:
                return f"{origins[candidate]}: "
        key = key.rpartition(".")[0]
    return ""


def report(wrong: Sequence[Problem], origins: Mapping[str, str], hint: str) -> str:
    """One line a problem: origin, key, what is wrong."""
    lines = []
    for problem in dict.fromkeys(wrong):
        origin = f"{problem.origin}: " if problem.origin else _origin(problem.key, origins)
        lines.append(f"{origin}{problem}")
    if any(problem.message.startswith("is not a setting") for problem in wrong):
        lines.append(hint)
    if len(wrong) == 1:
        return " ".join(lines)
    return "\n  ".join([f"{len(wrong)} problems in the settings:", *lines])
