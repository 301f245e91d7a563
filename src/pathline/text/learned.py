"""Words by a table that is trained along with the network: small captions, no download."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from pathline.nn.attention import Attention
from pathline.nn.blocks import feed_forward, norm
from pathline.types import Cond, Facts, Output, Text

PAD, NULL = 0, 1  # the first rows of the table; the words follow
SPECIALS = 2
HEAD = 32  # width of an attention head of the refiner


def split(caption: str) -> list[str]:
    """Lower-case words and single signs."""
    return re.findall(r"\w+|[^\w\s]", caption.lower())


def vocabulary(captions: Iterable[str | None]) -> tuple[str, ...]:
    """Every word of the captions, sorted."""
    return tuple(sorted({word for caption in captions if caption for word in split(caption)}))


class Refiner(nn.Module):
    """A plain transformer block over words, so that `circle` can know that it is red and first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm("rms", width), norm("rms", width)
        self.attention = Attention(width, heads, qk_norm=True)
        self.mlp = feed_forward("swiglu", width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), None, mask)
        return x + self.mlp(self.norm2(x))


class WordEncoder(nn.Module):
    """Word vectors plus learned positions, refined: words and mask [B L] -> tokens [B L D].

    Vectors start at N(0, 1): at N(0, .02) a short training never hears its prompts.
    """

    def __init__(self, rows: int, width: int, length: int, layers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        self.positions = nn.Parameter(torch.randn(length, width))
        heads = max(1, width // HEAD)
        self.refiners = nn.ModuleList([Refiner(width, heads) for _ in range(layers)])

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.table(words) + self.positions[: words.shape[1]]
        for refiner in self.refiners:
            x = refiner(x, mask[:, None, None, :])
        return x


class Worded(nn.Module):
    """A network and the word encoder trained with it, as one network of the same signature."""

    def __init__(self, text: nn.Module, backbone: nn.Module) -> None:
        super().__init__()
        self.text = text
        self.backbone = backbone

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Cond,
        r: Tensor | None = None,
        *more: Tensor | None,
        **ways: Any,
    ) -> Output:
        tokens = self.text(cond.words, cond.mask)
        return self.backbone(x, t, cond._replace(tokens=tokens), r, *more, **ways)


def words(facts: Facts, *, width: int = 128, length: int = 64, layers: int = 1) -> Text:
    """Captions word by word.

    width: of a word's vector. length: the most words of a caption. layers: of the refiner.
    """
    if not facts.words:
        raise ValueError(
            "text=words needs captions, but the data has none; use text=labels or none."
        )
    rows = {word: SPECIALS + index for index, word in enumerate(facts.words)}

    def row(word: str, caption: str) -> int:
        if word in rows:
            return rows[word]
        near = ", ".join(get_close_matches(word, rows, n=3))
        known = f"Near: {near}." if near else f"Known: {', '.join(list(rows)[:20])} …"
        raise ValueError(f"The word {word!r} of {caption!r} was never seen in training. {known}")

    def indices(caption: str | int | None) -> list[int]:
        if caption is None or caption == "":
            return [NULL]
        found = [row(word, str(caption)) for word in split(str(caption))] or [NULL]
        if len(found) > length:
            raise ValueError(
                f"A caption has {len(found)} words, but text.length is {length}: "
                f"{str(caption)[:60]!r} … Shorten it, or train with text.length={len(found)}."
            )
        return found

    def encode(captions: Sequence[str | int | None]) -> Cond:
        found = [indices(caption) for caption in captions]
        longest = max(map(len, found))
        table = torch.tensor([row + [PAD] * (longest - len(row)) for row in found])
        return Cond(words=table, mask=table != PAD)

    encoder = WordEncoder(SPECIALS + len(facts.words), width, length, layers)
    return Text(encode, encode([None]), width, encoder)
