"""Tag lists as Danbooru has them: split, put in order, shuffled and thinned out as they are read.

The result is a function of the seed, the epoch, the row and the tags alone; the chance of a tag
depends on its words, so that adding one to a list changes nothing for the others.
"""

import hashlib
import re
from typing import Any, Literal

COUNT = re.compile(r"\d\+?(girl|boy|other)s?|(multiple )?(girls|boys|others)|solo|no humans")
RATING = re.compile(r"rating: ?\w+|safe|sensitive|questionable|explicit|nsfw")
QUALITY = re.compile(
    r"masterpiece|absurdres|highres|lowres|((best|great|good|normal|low|bad|worst) quality)"
)
PREFIXES = ("character", "copyright", "series", "artist")  # as in character:hatsune_miku
FACES = {  # tags whose underscore is drawn (SmilingWolf/wd-tagger:app.py)
    *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9"),
    *(">_o", "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"),
}
WORDS = 5  # of the longest tag that is common


def split(caption: str) -> list[str]:
    """The tags of a list, each once: by commas, or by blanks where there is no comma."""
    parts = caption.split(",") if "," in caption else caption.split()
    return list(dict.fromkeys(tag for part in parts if (tag := " ".join(part.split()))))


def is_tags(caption: str) -> bool:
    """Whether this looks like a list of tags and not like a sentence."""
    if "," not in caption:
        parts = caption.split()
        return len(parts) > 1 and 2 * sum("_" in part for part in parts) >= len(parts)
    tags = split(caption)
    short = all(len(tag.split()) <= WORDS for tag in tags)
    return len(tags) > 2 and short and not re.search(r"[.!?](\s|$)", caption)


def spaced(tag: str) -> str:
    """Underscores as blanks, but for faces such as ^_^."""
    return tag if tag.lower() in FACES else tag.replace("_", " ")


def rank(tag: str) -> int:
    """Where a tag belongs: persons, character, series, artist, the rest, quality, rating."""
    plain = tag.lower().replace("_", " ")
    if COUNT.fullmatch(plain):
        return 0
    before, colon, _ = plain.partition(":")
    if colon and before in PREFIXES:
        return {"character": 1, "artist": 3}.get(before, 2)
    if RATING.fullmatch(plain):
        return 6
    return 5 if QUALITY.fullmatch(plain) else 4


def arrange(
    caption: str,
    row: int,
    epoch: int,
    seed: int = 0,
    *,
    order: Literal["given", "danbooru"] = "given",
    shuffle: bool = False,
    keep: int = 1,
    dropout: float = 0.0,
    underscores: Literal["keep", "spaces"] = "spaces",
    separator: str = ", ",
) -> str:
    """A tag list as this row gives it in this epoch; a caption that is no tag list stays as it is.

    order: "danbooru" sorts by `rank` before all else. keep: the first so many are neither shuffled
    nor dropped. dropout: share of the others that is left out. One tag at least is always left.
    """
    if not 0 <= dropout <= 1 or keep < 0:
        raise ValueError(f"dropout={dropout}, keep={keep}: wanted a share of 0 … 1 and at least 0")
    if not is_tags(caption):
        return caption
    tags = split(caption)
    if order == "danbooru":
        tags.sort(key=rank)
    first, rest = tags[:keep], tags[keep:]
    # Chances are hashes, not a generator's: the same in any process and reading order.
    if dropout:
        left = [tag for tag in rest if _chance(seed, epoch, row, "drop", tag) >= dropout]
        rest = left or ([] if first else tags[:1])
    if shuffle:
        rest.sort(key=lambda tag: _chance(seed, epoch, row, "shuffle", tag))
    result = [*first, *rest]
    return separator.join(map(spaced, result) if underscores == "spaces" else result)


def variant(caption: str, key: str, number: int, seed: int, **options: Any) -> str:
    """Arrangement `number` of a list that belongs to this picture; options: of `arrange`."""
    name = key.encode("utf-8", "surrogatepass")  # of a file, which may be no UTF-8
    row = int.from_bytes(hashlib.blake2b(name, digest_size=7).digest())
    return arrange(caption, row, number, seed, **options)


def _chance(*parts: int | str) -> float:
    """A pseudo-random number in [0, 1); the same for the same parts everywhere."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
