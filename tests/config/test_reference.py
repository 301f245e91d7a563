"""Every setting has a meaning, and docs/settings.md is what the code says."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from pathline.config.codec_run import CodecRun
from pathline.config.meanings import field_meanings, option_meanings
from pathline.config.reference import settings_page, table_meanings
from pathline.config.run import PLACES, Run
from pathline.ranges import Positive
from pathline.recipes.config import reference
from pathline.tables import TABLES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Base:
    """A section."""

    size: Positive = 3  # pixels of a side
    # Text that goes on
    # over two lines.
    name: str = "x"


@dataclass(frozen=True)
class Section(Base):
    """A section with more."""

    size: Positive = 4
    bare: int = 0


def test_the_page_is_generated():
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    assert page == reference(), "pathline config list --markdown > docs/settings.md"


@pytest.mark.parametrize("record", [Run, CodecRun])
def test_every_field_has_a_meaning(record):
    page = settings_page(record, {}, {})
    assert re.findall(r"^- `.*\):\s*$(?!\n  \w)", page, re.MULTILINE) == []
    assert page.count("\n- `") > 25


def test_a_field_without_a_meaning_is_noticed():
    page = settings_page(Section, {}, {})
    assert re.findall(r"^- `(\w+)`.*\):\s*$(?!\n  \w)", page, re.MULTILINE) == ["bare"]


@pytest.mark.parametrize("place", PLACES)
def test_every_option_has_a_meaning(place):
    meanings = table_meanings(place, TABLES[place])
    assert [(row, key) for row, keys in meanings.items() for key in keys if not keys[key]] == []


def test_meanings_of_fields():
    assert field_meanings(Section) == {
        "size": "Pixels of a side.",  # its base's: the default alone is new
        "name": "Text that goes on over two lines.",
        "bare": "",
    }


def test_ranges_are_shown():
    page = settings_page(Section, {}, {})
    assert "- `size` (a whole number of 1 or more; default `4`): Pixels of a side." in page


def test_meanings_of_options():
    def row(x, *, low: float = 0.0, high: float = 1.0, size: int = 2):
        """What it is. low, high: where it acts, in [0, 1]. More prose. size: pixels.

        Raises ValueError.
        """

    assert option_meanings(row, ("low", "high", "size")) == {
        "low": "Where it acts, in [0, 1].",
        "high": "Where it acts, in [0, 1].",
        "size": "Pixels.",
    }
