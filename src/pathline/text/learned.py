"""A table of words, trained with the network: for short captions, without a download."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from pathline.nn.attention import Attention
from pathline.nn.blocks import feed_forward, norm
from pathline.types import Cond, Facts, Text

PAD, NULL = 0, 1  # the first rows of the table; the words follow
SPECIALS = 2
LENGTH = 64  # most words of a caption, unless text.length says otherwise
HEAD = 32  # width of an attention head of the refiner


def split(caption: str) -> list[str]:
    """Lower-case words, and punctuation marks one by one."""
    return re.findall(r"\w+|[^\w\s]", caption.lower())


def vocabulary(captions: Iterable[str | None]) -> tuple[str, ...]:
    """Every word of the captions, sorted."""
    return tuple(sorted({word for caption in captions if caption for word in split(caption)}))


class Refiner(nn.Module):
    """A transformer block over the words of a caption."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm("rms", width), norm("rms", width)
        self.attention = Attention(width, heads, qk_norm=True)
        self.mlp = feed_forward("swiglu", width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), None, mask)
        return x + self.mlp(self.norm2(x))


class WordEncoder(nn.Module):
    """Words and mask [B L] -> tokens [B L D]: word vectors plus trained positions, then blocks.

    Vectors start at N(0, 1): with N(0, .02) a short training ignores its prompts.
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


def words(facts: Facts, *, width: int = 128, length: int = LENGTH, layers: int = 1) -> Text:
    """Captions word by word.

    width: of a word's vector. length: most words of a caption. layers: transformer blocks.
    """
    if not facts.words:
        raise ValueError(
            "text=words is wrong because the data has no captions. Set text=labels or text=none."
        )
    rows = {word: SPECIALS + index for index, word in enumerate(facts.words)}

    def row(word: str, caption: str) -> int:
        if word in rows:
            return rows[word]
        near = ", ".join(get_close_matches(word, rows, n=3))
        hint = f"Near: {near}." if near else f"Known: {', '.join(list(rows)[:20])} …"
        raise ValueError(f"The word {word!r} of {caption!r} is not in the training data. {hint}")

    def indices(caption: str | int | None) -> list[int]:
        if caption is None or caption == "":
            return [NULL]
        # A caption of punctuation alone has no words, and asks for nothing.
        words = [row(word, str(caption)) for word in split(str(caption))] or [NULL]
        if len(words) > length:
            raise ValueError(
                f"text.length={length} is wrong because a caption has {len(words)} words: "
                f"{str(caption)[:60]!r} … Shorten it, or train with text.length={len(words)}."
            )
        return words

    def encode(captions: Sequence[str | int | None]) -> Cond:
        lines = [indices(caption) for caption in captions]
        # Padded to the longest caption of this call; the mask keeps padding unread.
        longest = max(map(len, lines))
        padded = torch.tensor([line + [PAD] * (longest - len(line)) for line in lines])
        return Cond(words=padded, mask=padded != PAD)

    encoder = WordEncoder(SPECIALS + len(facts.words), width, length, layers)
    return Text(encode, encode([None]), width, encoder)
