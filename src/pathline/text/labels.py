"""Class labels as conditions; the row after the last class is the null label."""

from collections import Counter
from collections.abc import Sequence

import torch

from pathline.hints import nearest
from pathline.types import Cond, Facts, Text

SHOWN = 20  # classes in a message
ENCODER = "text=encoder text.path=sentence-transformers/all-MiniLM-L6-v2"
FREE_PROMPTS = (
    "For prompts in your own words, train on captions (`pathline caption FOLDER` writes them, or "
    "put a text file next to each picture): `pathline train FOLDER text=words` learns their words, "
    f"`pathline train FOLDER {ENCODER}` reads any words with a pretrained encoder."
)


def none(_: Facts) -> Text:
    """No conditioning: samples follow the distribution of the whole data set."""

    def encode(items: Sequence[str | int | None]) -> Cond:
        prompts = [item for item in items if item not in (None, "")]
        if prompts:
            raise ValueError(
                f"The prompt {prompts[0]!r} is wrong because this run was trained without captions "
                f"or classes (text=none). Generate without a prompt. {FREE_PROMPTS}"
            )
        return Cond()

    return Text(encode, Cond())


def labels(facts: Facts) -> Text:
    """A class by its name (in any case, unless two differ in case only), or by its number."""
    count = len(facts.names)
    exact = {name: index for index, name in enumerate(facts.names)}
    # Names that differ in case only must be written exactly.
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
            number = exact.get(item, names.get(item.lower()))
            if number is not None:
                return number
        # What is neither a class's name nor a number is a typing error.
        if isinstance(item, str) and not item.lstrip("-").isdecimal():
            hint = nearest(item.lower(), names)
            raise ValueError(
                f"There is no class {item!r}, and this run reads classes.{hint} There are: "
                f"{', '.join(facts.names[:SHOWN])}{' …' if count > SHOWN else ''}. {FREE_PROMPTS}"
            )
        if not 0 <= int(item) < count:
            raise ValueError(
                f"Label {item} is wrong because the classes are 0 … {count - 1}. Give one."
            )
        return int(item)

    def encode(items: Sequence[str | int | None]) -> Cond:
        return Cond(labels=torch.tensor([index(item) for item in items]))

    return Text(encode, encode([None]))
