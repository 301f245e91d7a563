"""A text encoder as its cache describes it: loaded only when new captions are to be encoded."""

from collections.abc import Callable, Sequence

from pathline.deferred import load_by_id
from pathline.types import CacheInfo, Cond, Text

NOT_ENCODED = Cond()  # the null of a `LazyText` that was not set


class LazyText(Text):
    """A Text whose null is encoded at its first use, unless it was set."""

    @property
    def null(self) -> Cond:  # pyright: ignore[reportIncompatibleVariableOverride]
        null: Cond = self[1]
        return self.encode([None]) if null.tokens is None else null


def cached_text(make: Callable[[], Text], info: CacheInfo) -> Text:
    """The encoder that `make` builds, with the widths of the cached states.

    Encoding raises ValueError if it is not the encoder that made them.
    """
    text, to = load_by_id(make, info.text, "states of the text encoder")

    def encode(captions: Sequence[str | int | None]) -> Cond:
        return text().encode(captions)

    width, pooled_width = info.text_width, info.pooled_width
    return LazyText(encode, NOT_ENCODED, width, pooled_width=pooled_width, id=info.text, to=to)
