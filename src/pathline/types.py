"""The nouns that travel between rooms. Time runs from 0 (noise) to 1 (data) everywhere."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Frame(NamedTuple):
    """What a network must know of its data before it can be built."""

    channels: int  # of x1
    height: int
    width: int
    classes: int = 0  # labels are 0 … classes − 1; `classes` itself is the null label
    vocabulary: int = 0  # rows of a word table that is trained along
    text_width: int = 0  # of Cond.tokens as the backbone receives them


class Cond(NamedTuple):
    """What a picture is asked to be; any field may be absent."""

    tokens: Tensor | None = None  # [B L D] text states
    mask: Tensor | None = None  # [B L] true where there is text
    pooled: Tensor | None = None  # [B D]
    labels: Tensor | None = None  # [B] class index
    words: Tensor | None = None  # [B L] word index, for an encoder that is trained along


class Example(NamedTuple):
    """One decoded picture of a data source."""

    image: Tensor  # uint8 [C H W]
    caption: str | None
    label: int | None
    key: str  # stable name: a file, a row


class Batch(NamedTuple):
    x1: Tensor  # [B C H W] normalised data
    cond: Cond  # rows of B
    null: Cond  # one row: the condition that asks for nothing
    keys: Tensor  # [B] row numbers in the data source, to name a picture in a message


class Point(NamedTuple):
    """A point of the path and what the path does there."""

    x0: Tensor  # [B C H W] noise
    x1: Tensor  # [B C H W] data
    t: Tensor  # [B]
    xt: Tensor  # [B C H W]
    v: Tensor  # [B C H W] velocity


class Output(NamedTuple):
    """What a backbone answers; objectives replace `value` by the velocity before terms see it."""

    value: Tensor  # [B C H W]
    hidden: Tensor | None = None  # [B L D] picture tokens after the last block


Field = Callable[..., Tensor]  # (x [B C H W], t: float or [B]) -> velocity [B C H W]
