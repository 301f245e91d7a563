"""A table of words, trained with the network: for short captions, without a download."""

import re
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated

import torch
from torch import Tensor, nn

from pathline.nn.attention import Attention
from pathline.nn.blocks import feed_forward, norm
from pathline.ranges import Positive, Range, Width
from pathline.text.labels import ENCODER
from pathline.types import Cond, Facts, Text

PAD, NULL = 0, 1  # the first rows of the table; the words follow
SPECIALS = 2
LENGTH = 64  # most words of a caption, unless text.length says otherwise
HEAD = 32  # width of an attention head of the refiner
EXAMPLES = 12  # words in a message


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


def words(
    facts: Facts,
    *,
    width: Width = 128,
    length: Positive = LENGTH,
    layers: Annotated[int, Range(0, 1000)] = 1,
) -> Text:
    """Captions word by word.

    width: of a word's vector. length: most words of a caption. layers: transformer blocks.
    """
    if not facts.words:
        raise ValueError(
            "text=words is wrong because the data has no captions. Set text=labels or text=none."
        )
    rows = {word: SPECIALS + index for index, word in enumerate(facts.words)}
    warned: set[str] = set()  # each word once in a process

    def indices(caption: str | int | None) -> list[int]:
        texts = split(str(caption)) if caption not in (None, "") else []
        learned = [rows[word] for word in texts if word in rows]
        unseen = [word for word in texts if word not in rows]
        # A prompt may have new words, but not only new words: it would be unconditional.
        if unseen and not learned:
            raise ValueError(_all_unseen(str(caption)[:60], unseen, facts.words))
        if new := [word for word in unseen if word not in warned]:
            warned.update(new)
            warnings.warn(
                f"skipped {', '.join(map(repr, new))} of the prompt {str(caption)[:60]!r}: not in "
                f"the training captions.{_near_words(new, rows)}",
                stacklevel=4,
            )
        if len(learned) > length:
            raise ValueError(
                f"text.length={length} is wrong because a caption has {len(learned)} words: "
                f"{str(caption)[:60]!r} … Shorten it, or train with text.length={len(learned)}."
            )
        # A caption without words is the null condition.
        return learned or [NULL]

    def encode(captions: Sequence[str | int | None]) -> Cond:
        lines = [indices(caption) for caption in captions]
        # Padded to the longest caption of this call; the mask keeps padding unread.
        longest = max(map(len, lines))
        padded = torch.tensor([line + [PAD] * (longest - len(line)) for line in lines])
        return Cond(words=padded, mask=padded != PAD)

    encoder = WordEncoder(SPECIALS + len(facts.words), width, length, layers)
    return Text(encode, encode([None]), width, encoder)


def _all_unseen(prompt: str, unseen: Sequence[str], words: Sequence[str]) -> str:
    """The error for a prompt of which this run has learned no word."""
    return (
        f"No word of the prompt {prompt!r} was in the training captions."
        f"{_near_words(unseen, words)} Write it in words that this run has learned, such as "
        f"{', '.join(_examples(words))}. A run with a pretrained encoder reads any "
        f"words: `pathline train FOLDER {ENCODER}`."
    )


def _near_words(unseen: Sequence[str], learned: Iterable[str]) -> str:
    """For each word, the learned words that are spelled almost like it; "" where none is."""
    learned = list(learned)
    near = {word: get_close_matches(word, learned, n=3) for word in unseen}
    return "".join(f" Near {word!r}: {', '.join(words)}." for word, words in near.items() if words)


def _examples(words: Sequence[str]) -> list[str]:
    """Some words of a vocabulary, from all over it; no numbers or marks while there are others."""
    chosen = [word for word in words if word.isalpha() and len(word) > 2] or list(words)
    return chosen[:: max(1, len(chosen) // EXAMPLES)][:EXAMPLES]
