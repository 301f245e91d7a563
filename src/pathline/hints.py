"""One "Did you mean …?" for every name that a person can mistype."""

import os
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from subprocess import list2cmdline


def closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar of `names`; None where none is similar. cutoff: least similarity, 0 … 1."""
    similar = get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return similar[0] if similar else None


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The most similar of `names` as " Did you mean 'x'?", with its leading space; "" for none."""
    similar = closest(name, names, cutoff)
    return f" Did you mean {similar!r}?" if similar else ""


def command_line(*words: object) -> str:
    """`pathline WORDS` as it can be pasted into this system's shell, whatever paths hold."""
    join = list2cmdline if os.name == "nt" else shlex.join
    return join(["pathline", *map(str, words)])


def listing(names: Iterable[str]) -> str:
    """Names in alphabetical order, separated by commas; "none" for no names."""
    return ", ".join(sorted(names)) or "none"
