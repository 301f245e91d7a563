"""Class labels as conditions; the row after the last class is the null label."""

from collections import Counter
from collections.abc import Sequence

import torch

from pathline.hints import nearest
from pathline.types import Cond, Facts, Text


def none(_: Facts) -> Text:
    """No condition: every picture is drawn from the whole of the data."""

    def encode(items: Sequence[str | int | None]) -> Cond:
        asked = [item for item in items if item not in (None, "")]
        if asked:
            raise ValueError(
                f"{asked[0]!r} was asked for, but this run was trained without captions or labels; "
                "draw without a prompt, or train with text=words or text=labels."
            )
        return Cond()

    return Text(encode, Cond())


def labels(facts: Facts) -> Text:
    """A class by its name, in any case where that tells it, or else by its number."""
    count = len(facts.names)
    exact = {name: index for index, name in enumerate(facts.names)}
    times = Counter(name.lower() for name in exact)
    names = {n.lower(): index for n, index in exact.items() if times[n.lower()] == 1}
    if not count:
        raise ValueError(
            "text=labels is wrong because the data has no labels. Set text=none or text=words."
        )

    def index(item: str | int | None) -> int:
        if item is None or item == "":
            return count
        if isinstance(item, str):  # a class may be called by a number that is not its own
            found = exact.get(item, names.get(item.lower()))
            if found is not None:
                return found
        if isinstance(item, str) and not item.lstrip("-").isdecimal():
            hint = nearest(item.lower(), names)
            raise ValueError(
                f"There is no class {item!r}.{hint} There are: {', '.join(facts.names)}."
            )
        if not 0 <= int(item) < count:
            raise ValueError(f"Label {item} is out of range: the classes are 0 … {count - 1}.")
        return int(item)

    def encode(items: Sequence[str | int | None]) -> Cond:
        return Cond(labels=torch.tensor([index(item) for item in items]))

    return Text(encode, encode([None]))
