"""Every number that a person can set has a range, and what lies just outside of it is refused."""

import inspect
import math
from importlib import import_module
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from pathline.cli import COMMANDS, GROUPS, main
from pathline.codecs.own import NETWORKS
from pathline.config.codec_run import CodecRun
from pathline.config.layers import build, keys_of, nest
from pathline.config.pick import Pick, options_of
from pathline.config.pick import problems as wrong_in
from pathline.config.run import Run
from pathline.config.values import convert, is_number
from pathline.ranges import LARGEST, Range, holds, range_words
from pathline.tables import TABLES

RECORDS = {"train": Run, "codec train": CodecRun}
ROWS = [
    (place, name, key, option.kind)
    for place, table in {**TABLES, "network": NETWORKS}.items()
    for name, row in table.items()
    for key, option in options_of(row).items()
]
FIELDS = [
    (command, key, kind)
    for command, record in RECORDS.items()
    for key, kind in keys_of(record).items()
]


def ranges(kind):
    """(type, range or None) of every number in a kind; bool is none."""
    if get_origin(kind) is Annotated:
        number, *notes = get_args(kind)
        return [(number, next((note for note in notes if isinstance(note, Range)), None))]
    if kind in (int, float):
        return [(kind, None)]
    return [
        pair for part in get_args(kind) if not isinstance(part, str | int) for pair in ranges(part)
    ]


def outside(number, allowed):
    """The values next to the ends of a range, of its type, that are not in it."""
    nearest = (lambda x, to: x + int(math.copysign(1, to))) if number is int else math.nextafter
    low = [allowed.low] if allowed.without_low else [nearest(allowed.low, -math.inf)]
    high = [allowed.high] if allowed.without_high else [nearest(allowed.high, math.inf)]
    return [*low, *high]


def in_kind(kind, value):
    """The value as a kind takes it: a list of it where it is a list."""
    return [value] if any(get_origin(part) is tuple for part in (kind, *get_args(kind))) else value


def test_the_oracle_finds_numbers():
    share = Annotated[float, Range(0, 1, without_low=True)]
    assert ranges(tuple[share, ...] | None) == [(float, Range(0, 1, without_low=True))]
    assert ranges(int | None) == [(int, None)]
    assert ranges(bool) == ranges(str) == []
    assert outside(float, Range(0, 1, without_low=True)) == [0, math.nextafter(1, math.inf)]
    assert outside(int, Range(1, 3)) == [0, 4]


def test_every_number_has_a_range_with_an_end_of_its_own():
    bare = [
        (*where, allowed)
        for *where, kind in [*ROWS, *FIELDS]
        for _, allowed in ranges(kind)
        if allowed is None or (allowed.low, allowed.high) == (-LARGEST, LARGEST)
    ]
    assert bare == []
    assert sum(bool(ranges(kind)) for *_, kind in [*ROWS, *FIELDS]) > 200


@pytest.mark.parametrize(("place", "name", "key", "kind"), [row for row in ROWS if ranges(row[3])])
def test_an_option_just_outside_its_range_is_refused(place, name, key, kind):
    table = {**TABLES, "network": NETWORKS}[place]
    for number, allowed in ranges(kind):
        for value in (*outside(number, allowed), math.nan, math.inf, -math.inf, True, "much"):
            given = in_kind(kind, value)
            wrong = dict(wrong_in(table, Pick(name, {key: given}), "row"))
            assert " is wrong because it must be " in wrong[key], value
            assert range_words(allowed) in wrong[key], value


@pytest.mark.parametrize(
    ("command", "key", "kind"), [field for field in FIELDS if ranges(field[2])]
)
def test_a_setting_just_outside_its_range_is_refused(command, key, kind):
    for number, allowed in ranges(kind):
        for value in (*outside(number, allowed), math.nan, math.inf, True, "much"):
            given = {"mse": value} if get_origin(kind) is dict else in_kind(kind, value)
            with pytest.raises(ValueError, match=f"^{key}[.=].* is wrong because it must be "):
                build(RECORDS[command], nest(key, given))


@pytest.mark.parametrize(
    "kind",
    # in one order in every worker
    sorted({kind for *_, kind in ROWS if any(n is int for n, _ in ranges(kind))}, key=str),
    ids=str,
)
def test_a_whole_number_is_not_rounded(kind):
    for value in (1.5, "2.9", 2.000001):
        with pytest.raises(ValueError, match="a whole number"):
            convert(in_kind(kind, value), kind)


@pytest.mark.parametrize(("place", "name", "key", "kind"), [row for row in ROWS if ranges(row[3])])
def test_a_default_lies_in_its_range(place, name, key, kind):
    default = options_of({**TABLES, "network": NETWORKS}[place][name])[key].default
    if default is not inspect.Parameter.empty:
        assert convert(default, kind) == default


def test_the_defaults_of_records_lie_in_their_ranges():
    for record in RECORDS.values():
        build(record, {})


PLACES = [place for _, place, _ in COMMANDS] + [
    place for _, *rest in GROUPS.values() for _, place, _ in rest
]


@pytest.mark.parametrize("place", PLACES)
def test_every_number_of_a_command_has_a_range(place):
    module, name = place.split(":")
    command = getattr(import_module(f"pathline.recipes.{module}"), name)
    kinds = get_type_hints(command, include_extras=True)
    bare = [key for key, kind in kinds.items() if key != "return" and is_number(kind)]
    bare = [key for key in bare if any(allowed is None for _, allowed in ranges(kinds[key]))]
    assert bare == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--n 2.9", "--n=2.9 is wrong because it must be a whole number of 1 or more or null."),
        ("--steps 1.9", "--steps=1.9 is wrong because it must be a whole number"),
        ("--seed 3.7", "--seed=3.7 is wrong because it must be a whole number in [0, "),
        (f"--seed {2**64}", f"--seed={2**64} is wrong because it must be a whole number in [0, "),
        ("--seed -1", "--seed=-1 is wrong"),
        ("--n 0", "--n=0 is wrong"),
        ("--label x", "--label=x is wrong"),
        ("--strength nan", "--strength=nan is wrong because it must be a number in (0, 1]."),
        ("--guidance inf", "--guidance=inf is wrong"),
        ("--n 2.9 --seed 3.7", "--seed=3.7 is wrong"),
    ],
)
def test_a_number_on_the_command_line_is_not_rounded(option, words, tmp_path, capsys):
    assert main(["generate", str(tmp_path), *option.split()]) == 2
    assert words in capsys.readouterr().err


def test_words_of_ranges():
    assert range_words(Range(0)) == "of 0 or more"
    assert range_words(Range(0, without_low=True)) == "above 0"
    assert range_words(Range(high=0.5, without_high=True)) == "below 0.5"
    assert range_words(Range(0, 1, without_high=True)) == "in [0, 1)"
    assert not holds(Range(0), math.nan)
