"""Ranges of numbers, written where a setting is declared: `steps: Positive = 25`.

A field of a settings record, an option of a row and an option of a command carry them alike;
`config.values.convert` refuses what lies outside. Imports nothing, so that every row can use it.
"""

from typing import Annotated, NamedTuple

# Beyond it no setting means anything, and numbers begin to overflow in other libraries.
LARGEST = 10**9


class Range(NamedTuple):
    """What a number may be; LARGEST and -LARGEST stand for no limit of its own."""

    low: float = -LARGEST
    high: float = LARGEST
    without_low: bool = False  # the number must be above `low`
    without_high: bool = False  # the number must be below `high`


def holds(allowed: Range, number: float) -> bool:
    """Whether a number lies in a range; NaN lies in none."""
    above = number > allowed.low if allowed.without_low else number >= allowed.low
    below = number < allowed.high if allowed.without_high else number <= allowed.high
    return above and below


def range_words(allowed: Range) -> str:
    """A range in words, after "a number": "of 0 or more", "above 0"."""
    low, high = _plain(allowed.low), _plain(allowed.high)
    if allowed.high == LARGEST:
        return f"above {low}" if allowed.without_low else f"of {low} or more"
    if allowed.low == -LARGEST:
        return f"below {high}" if allowed.without_high else f"of {high} or less"
    before, after = "[("[allowed.without_low], "])"[allowed.without_high]
    return f"in {before}{low}, {high}{after}"


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


Positive = Annotated[int, Range(1)]
NotNegative = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, without_low=True)]
NotNegativeFloat = Annotated[float, Range(0)]
AtLeastOne = Annotated[float, Range(1)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, without_high=True)]
ShareAboveZero = Annotated[float, Range(0, 1, without_low=True)]
Mean = Annotated[float, Range(-100, 100)]  # of a normal distribution, or an offset of latents
Layer = Annotated[int, Range(-1000, 1000)]  # of a network, counted from its end if negative
Seed = Annotated[int, Range(0, 2**63 - 1)]  # what torch's generators take
# A power average of relative length 0.2886 is the mean over the whole run; none is longer.
PowerLength = Annotated[float, Range(0, 0.2886, without_low=True)]
Depth = Annotated[int, Range(1, 1000)]  # blocks or layers, which are built one by one
Width = Annotated[int, Range(1, 2**17)]  # channels or numbers in a token
TimeStep = Annotated[float, Range(0, 0.5, without_low=True, without_high=True)]
Port = Annotated[int, Range(1, 65535)]
