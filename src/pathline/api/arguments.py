"""Keyword arguments as settings, and errors as PathlineError."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pathline.config.entries import COMMAND_LINE
from pathline.config.layers import flatten
from pathline.config.yaml_io import scalar
from pathline.errors import PathlineError, describe


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """Raise what the command would print, as PathlineError; faults of pathline pass unchanged."""
    try:
        yield
    except Exception as error:
        text = None if isinstance(error, PathlineError) else describe(error, command)
        if text is None:
            raise
        raise PathlineError(text.replace(f"{COMMAND_LINE}: ", "")) from error


def to_path(path: str | Path) -> Path:
    """A path as a shell reads it: ~ is the home folder."""
    return Path(path).expanduser()


def to_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they are typed: {"train": {"updates": 5}} as "train.updates=5", without None."""
    leaves = {key: value for key, value in settings.items() if value is not None}
    return [f"{key}={scalar(_plain(key, value))}" for key, value in flatten(leaves).items()]


def _plain(key: str, value: Any) -> Any:
    """A value of YAML: numbers of NumPy and torch are plain numbers, tuples are lists."""
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, str | Path | bool | int | float | None):
        return value
    if value == {}:
        return value
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise ValueError(
        f"{key}={value!r} is wrong because a setting is a number, text, True, False, None, or a "
        "list or dictionary of these. Give one of them."
    )


def warn(text: str) -> None:
    """A warning of the caller's own line."""
    warnings.warn(text, stacklevel=2)
