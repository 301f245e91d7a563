"""Ranges of numbers, written at the field: `steps: Positive = 25`; `range_problems` checks them."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints


class Range(NamedTuple):
    """What a number may be."""

    words: str  # "above 0", after "must be"
    holds: Callable[[Any], bool]


Positive = Annotated[int, Range("above 0", lambda x: x > 0)]
PositiveFloat = Annotated[float, Range("above 0", lambda x: x > 0)]
NotNegative = Annotated[int, Range("0 or more", lambda x: x >= 0)]
NotNegativeFloat = Annotated[float, Range("0 or more", lambda x: x >= 0)]
Share = Annotated[float, Range("in [0, 1]", lambda x: 0 <= x <= 1)]
ShareBelowOne = Annotated[float, Range("in [0, 1)", lambda x: 0 <= x < 1)]
Channels = Annotated[int, Range("1 (grey) or 3 (colour)", lambda x: x in (1, 3))]
# A power average of relative length 0.2886 is the mean over the whole run; none is longer.
PowerLength = Annotated[float, Range("above 0 and up to 0.2886", lambda x: 0 < x <= 0.2886)]


def range_of(kind: Any) -> Range | None:
    """The range in an annotation; of `tuple[Share, ...]` that of its elements."""
    if get_origin(kind) is Annotated:
        return next((note for note in kind.__metadata__ if isinstance(note, Range)), None)
    return next(filter(None, map(range_of, get_args(kind))), None)


def range_problems(record: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, message) of every number in a record of settings that is out of its range."""
    kinds = get_type_hints(type(record), include_extras=True)
    for f in fields(record):
        key, value = f"{prefix}{f.name}", getattr(record, f.name)
        if is_dataclass(value):
            yield from range_problems(value, f"{key}.")
        allowed = range_of(kinds[f.name])
        values = value if isinstance(value, tuple) else (value,)
        if allowed and not all(allowed.holds(x) for x in values if x is not None):
            shown = list(value) if isinstance(value, tuple) else value
            yield key, f"must be {allowed.words}, got {shown}."
