"""Which column of a table is the picture, which the caption, which the label."""

import re
from collections.abc import Iterable
from math import isnan
from typing import Any, NamedTuple

IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
CAPTIONS = ("text", "caption", "txt", "prompt", "tag_string")
SEVERAL = ("captions",)
LABELS = ("label", "labels", "cls", "class")
CAPTION_KINDS = ("text", "texts", "int", "float", "bool")
LABEL_KINDS = ("class", "int", "text", "bool")
CHOOSE = "data.source.caption=… and data.source.label=… choose"
MOST_CLASSES = 100_000


class Columns(NamedTuple):
    """Names of columns; None where the table has none."""

    image: str
    caption: str | None  # of one text
    label: str | None
    captions: tuple[str, ...] = ()  # all that hold captions, that of the first caption first


def choose(
    kinds: dict[str, str],
    *,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    where: str,
) -> Columns:
    """The columns by what was asked for, else by kind and customary name.

    kinds: column -> "image", "bytes", "class", or one of `kind_of`, in the table's order. `caption`
    may name a list too, which then holds all captions. Raises ValueError, listing the columns,
    where one is missing, unfit or ambiguous.
    """
    pictures = _of(kinds, "image") or named(_of(kinds, "bytes"), IMAGES)
    captions = named(_of(kinds, *CAPTION_KINDS), CAPTIONS)
    labels = _of(kinds, "class") or named(_of(kinds, *LABEL_KINDS), LABELS)
    picture = _pick(kinds, "image", image, pictures, ("image", "bytes"), where)
    if picture is None:
        raise ValueError(
            f"{where} has no column of pictures; {_listing(kinds)}. Name it by image=…"
        )
    text_column = _pick(kinds, "caption", caption, captions, CAPTION_KINDS, where)
    label_column = _pick(kinds, "label", label, labels, LABEL_KINDS, where)
    # A list named outright holds all captions; others of customary name follow the first caption.
    is_list = text_column is not None and kinds[text_column] == "texts"
    further = [] if is_list and caption else named(_of(kinds, "texts"), SEVERAL)
    every = [text_column] if text_column else []
    every += [column for column in further if column not in every]
    return Columns(picture, None if is_list else text_column, label_column, tuple(every))


def unused(kinds: dict[str, str], columns: Columns) -> list[str]:
    """Columns that may hold captions or labels and are not used, with their kinds."""
    used = {columns.image, columns.label, *columns.captions}
    telling = ("text", "texts", "class", "bool", "float", "other")
    customary = (*CAPTIONS, *SEVERAL, *LABELS)
    return [
        f"{column} ({kind})"
        for column, kind in kinds.items()
        if column not in used and (kind in telling[:4] or named([column], customary))
    ]


def kind_of(values: Iterable[Any]) -> str | None:
    """What a column of Python values holds, from all of them; None for nothing at all.

    "text" also stands for words among numbers, "texts" for lists among texts; "int" for whole
    numbers of any type, "float" for others.
    """
    kinds = {kind for value in values if (kind := _kind_of_value(value))}
    if not kinds or "other" in kinds:
        return "other" if kinds else None
    if "texts" in kinds:
        return "texts"
    if len(kinds) == 1:
        return kinds.pop()
    return "float" if kinds == {"int", "float"} else "text"


def _kind_of_value(value: Any) -> str | None:
    match value:
        case None | "" | []:
            return None
        case bool():
            return "bool"
        case int():
            return "int"
        case str():
            return "text"
        case float():
            return None if isnan(value) else "int" if value.is_integer() else "float"
        case list() | tuple():
            is_plain = all(isinstance(part, str | int | float) for part in value)
            return "texts" if is_plain and any(isinstance(p, str) for p in value) else "other"
    return "other"


def class_rows(values: list[Any], where: str) -> tuple[list[int | None], tuple[str, ...]]:
    """Whole numbers or words as labels 0 … K − 1, and the names of the classes; None stays None.

    Numbers keep their value and are named by their digits; words are numbered by the alphabet.
    Truth values, and numbers among words, are words.
    """
    values = [_plain_label(value) for value in values]
    present = [value for value in values if value is not None]
    if any(isinstance(value, bool | str) for value in present):
        words = [None if value is None else str(value) for value in values]
        names = tuple(sorted({word for word in words if word is not None}))
        numbers = {name: index for index, name in enumerate(names)}
        return [None if word is None else numbers[word] for word in words], names
    wrong = [v for v in present if not isinstance(v, int) or v < 0]
    if wrong:
        raise ValueError(
            f"{where} has the label {wrong[0]!r}; wanted whole numbers from 0, or words throughout"
        )
    greatest = max(present, default=-1)
    if greatest >= MOST_CLASSES:
        raise ValueError(
            f"{where} has the label {greatest}: numbers so large are names, not classes 0 … K − 1. "
            "Name another column (label=…), or none with text=none"
        )
    return values, tuple(str(number) for number in range(greatest + 1))


def _plain_label(value: Any) -> Any:
    """A label without what tables add to it: whole floats as integers, none for NaN and ""."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        return None if isnan(value) else int(value) if value.is_integer() else value
    return value


def number_of(text: str) -> int | str | None:
    """A label in a text: a whole number such as 1 or 1.0, else the text; None for an empty one."""
    match = re.fullmatch(r"\s*(\d{1,18})(\.0+)?\s*", text)
    return int(match[1]) if match else text.strip() or None


def _of(kinds: dict[str, str], *sought: str) -> list[str]:
    return [column for column, kind in kinds.items() if kind in sought]


def named(columns: list[str], names: tuple[str, ...]) -> list[str]:
    """Those of a customary name; of a nested column (`json.prompt`) the last part counts."""
    return [c for c in columns if c.strip().lower().rpartition(".")[2] in names]


def _pick(
    kinds: dict[str, str],
    role: str,
    name: str | None,
    candidates: list[str],
    fit: tuple[str, ...],
    where: str,
) -> str | None:
    if name is not None and kinds.get(name) not in fit:
        state = f"a column of kind {kinds[name]!r}" if name in kinds else "not there"
        raise ValueError(
            f"{where}: {role}={name!r} is {state}; wanted one of kind {' or '.join(fit)}; "
            f"{_listing(kinds)}"
        )
    if name is None and len(candidates) > 1:
        raise ValueError(
            f"{where}: the {role} could be any of {', '.join(candidates)}; choose by {role}=…; "
            f"{_listing(kinds)}"
        )
    return name or (candidates[0] if candidates else None)


def _listing(kinds: dict[str, str]) -> str:
    return "its columns are " + ", ".join(f"{c} ({kind})" for c, kind in kinds.items())
