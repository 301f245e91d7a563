"""The text encoders by name. A row is built from the facts of the data and gives a `Text`."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from pathline.text.hf import clip, encoder, hidden, pair, siglip2, t5, t5gemma, t5gemma2
from pathline.text.labels import labels, none
from pathline.text.learned import words
from pathline.types import Facts, Text

Reads = Literal["nothing", "labels", "words", "captions"]


class TextRow(NamedTuple):
    """A row of TEXTS that is no frozen encoder of captions."""

    build: Callable[[Facts], Text] | Callable[..., Text]
    reads: Reads = "captions"  # of the data; words: captions, by a table trained with the network


def reads_of(name: str) -> Reads | None:
    """What a row reads of the data; None: the row is not chosen yet (auto)."""
    row = TEXTS.get(name)
    if row is None:
        return None
    return row.reads if isinstance(row, TextRow) else "captions"


def is_frozen(name: str) -> bool:
    """Whether captions go through a frozen encoder, whose states a cache can hold."""
    return reads_of(name) == "captions"


TEXTS: dict[str, Callable[..., Text] | TextRow] = {
    "none": TextRow(none, "nothing"),
    "labels": TextRow(labels, "labels"),
    "words": TextRow(words, "words"),
    "t5": t5,
    "t5gemma": t5gemma,
    "t5gemma2": t5gemma2,
    "clip": clip,
    "siglip2": siglip2,
    "hidden": hidden,
    "encoder": encoder,
    "pair": pair,
}
