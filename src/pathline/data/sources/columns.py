"""Which column of a table is the picture, which the caption, which the label."""

from typing import Any, NamedTuple

IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
CAPTIONS = ("text", "caption", "txt", "prompt", "tag_string")
SEVERAL = ("captions",)
LABELS = ("label", "labels", "cls", "class")
MOST_CLASSES = 100_000


class Columns(NamedTuple):
    """Names of columns; None where the table has none."""

    image: str
    caption: str | None
    label: str | None
    captions: str | None = None  # lists of texts: further captions of a picture


def choose(
    kinds: dict[str, str],
    *,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    where: str,
) -> Columns:
    """The columns by what was asked for, else by kind and customary name.

    kinds: column -> "image", "bytes", "text", "texts" (a list), "class", "int" or "other", in the
    table's order. `caption` may name a list too, which then holds all captions. Raises ValueError,
    listing the columns, where one is missing, unfit or ambiguous.
    """
    # By type first; by customary name where types leave several.
    pictures = _of(kinds, "image") or _called(_of(kinds, "bytes"), IMAGES)
    captions = _called(_of(kinds, "text"), CAPTIONS)
    labels = _of(kinds, "class") or _called(_of(kinds, "int", "text"), LABELS)
    picture = _pick(kinds, "image", image, pictures, ("image", "bytes"), where)
    if picture is None:
        raise ValueError(
            f"{where} has no column of pictures; {_listing(kinds)}. Name it by image=…"
        )
    text_column = _pick(kinds, "caption", caption, captions, ("text", "texts"), where)
    label_column = _pick(kinds, "label", label, labels, ("class", "int", "text"), where)
    if text_column is not None and kinds[text_column] == "texts":
        return Columns(picture, None, label_column, text_column)
    several = _called(_of(kinds, "texts"), SEVERAL)
    return Columns(picture, text_column, label_column, several[0] if several else None)


def class_rows(values: list[Any], where: str) -> tuple[list[int | None], tuple[str, ...]]:
    """Whole numbers or words as labels 0 … K − 1, and the names of the classes; None stays None.

    Numbers keep their value and are named by their digits; words are numbered by the alphabet.
    """
    # Words become classes in alphabetical order; numbers keep their meaning.
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        names = tuple(sorted(set(present)))
        numbers = {name: index for index, name in enumerate(names)}
        return [None if value is None else numbers[value] for value in values], names
    wrong = [v for v in present if isinstance(v, bool) or not isinstance(v, int) or v < 0]
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


def _of(kinds: dict[str, str], *sought: str) -> list[str]:
    return [column for column, kind in kinds.items() if kind in sought]


def _called(columns: list[str], names: tuple[str, ...]) -> list[str]:
    """Those of a customary name; of a nested column (`json.prompt`) the last part counts."""
    return [column for column in columns if column.lower().rpartition(".")[2] in names]


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
