"""Frozen encoders whose weights stay on disk until the first word is encoded."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import device

from pathline.types import Cond, Made, Text

UNMADE = Cond()


class Lazy(Text):
    """A Text whose null is made when it is asked for, unless one was given."""

    @property
    def null(self) -> Cond:  # pyright: ignore[reportIncompatibleVariableOverride]
        given: Cond = self[1]
        return self.encode([None]) if given.tokens is None else given


def stored(make: Callable[[], Text], made: Made) -> Text:
    """An encoder as its cache knows it; `make` looks for it when new words are to be encoded.

    Encoding raises ValueError if the encoder that is found is another.
    """
    where: list[device] = []

    @cache
    def found() -> Text:
        text = make()
        if text.id != made.text:
            raise ValueError(
                f"The text states were made by the encoder {made.text!r}, but the settings name "
                f"{text.id!r}: take the encoder that made them, or run pathline preprocess again."
            )
        return text

    def encode(captions: Sequence[str | int | None]) -> Cond:
        text = found()
        if where and text.to:
            text.to(where[-1])
        return text.encode(captions)

    wide, pooled = made.text_width, made.pooled_width
    return Lazy(encode, UNMADE, wide, pooled_width=pooled, id=made.text, to=where.append)
