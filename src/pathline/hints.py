"""One "Did you mean …?" for every name that a person can mistype."""

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar of `names`; None where none is similar. cutoff: least similarity, 0 … 1."""
    similar = get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return similar[0] if similar else None


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The most similar of `names` as " Did you mean 'x'?", with its leading space; "" for none."""
    similar = closest(name, names, cutoff)
    return f" Did you mean {similar!r}?" if similar else ""


def listing(names: Iterable[str]) -> str:
    """Names in alphabetical order, separated by commas; "none" for no names."""
    return ", ".join(sorted(names)) or "none"
