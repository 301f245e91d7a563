"""What the shapes of all backbones have in common: checks, and a size with parts replaced."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, get_args

SIZES = ("depth", "width", "heads", "patch")


def check(shape: Any, positive: tuple[str, ...], choices: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers below 1, for words that are no choice, for uneven heads.

    choices: name -> the Literal its value must be of.
    """
    for name in (*SIZES, *positive):
        if getattr(shape, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(shape, name)}.")
    if shape.bottleneck < 0:
        raise ValueError(f"bottleneck must be at least 0, got {shape.bottleneck}.")
    for name, kind in choices.items():
        if getattr(shape, name) not in get_args(kind):
            raise ValueError(
                f"{name}={getattr(shape, name)!r} is none of {', '.join(get_args(kind))}."
            )
    if shape.width % shape.heads:
        raise ValueError(
            f"width {shape.width} can't be split among {shape.heads} heads: "
            f"{shape.width} / {shape.heads} = {shape.width / shape.heads:.2f}."
        )


def sized(what: str, shapes: Mapping[str, Any], size: str, given: Mapping[str, Any]) -> Any:
    """The shape called `size` with what is given in place of its own; None keeps a size's own.

    Raises ValueError for an unknown size.
    """
    if size not in shapes:
        near = get_close_matches(size, shapes, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There is no {what} size {size!r}.{hint} There are: {', '.join(shapes)}.")
    return replace(shapes[size], **{key: x for key, x in given.items() if x is not None})
