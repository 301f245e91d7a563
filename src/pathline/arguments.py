"""What is wrong with the words of a command, as far as that shows without torch.

Importing torch takes seconds; a typing error is answered at once. Whatever passes here is checked
whole by the command itself, which knows the rows of the tables and what a run holds.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathline.config.ground import SIZE
from pathline.config.layers import build, merge, nest, to_tree
from pathline.config.resolve import PRESETS, read
from pathline.config.run import Run
from pathline.config.values import Problem
from pathline.files import why_missing
from pathline.hints import command_line, listing, nearest

RUNS = Path("runs")
SETTINGS = ("train", "data", "preprocess", "bench", "quickstart")  # commands that take settings
OF_RUNS = ("generate", "eval", "ema", "export")  # commands whose first word is a run
LATEST = "latest"


def check(command: str, first: str | None, rest: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises ValueError, or FileNotFoundError, for what is certainly wrong.

    first, rest: the words that belong to no option.
    """
    if first is not None and "=" not in first:
        _refuse_unquoted_path(command, [first, *rest])
    if command in OF_RUNS and first is not None:
        _refuse_missing_run(command, [first, *rest])
    if command in SETTINGS and not options.get("config") and not options.get("resume"):
        words = [first, *rest] if first and "=" in first else rest
        is_unknown = first is not None and "=" not in first and first not in PRESETS
        if (is_unknown and not Path(str(first)).exists()) or any(map(_is_unknown, words)):
            read(first or "quickstart", (), rest)  # raises, with all that is wrong


def _refuse_unquoted_path(command: str, words: Sequence[str]) -> None:
    """Raises ValueError where several words are one path with spaces."""
    if Path(words[0]).exists():
        return
    for count in range(2, len(words) + 1):
        path = " ".join(words[:count])
        if os.path.exists(path):  # Path.exists raises for a name that is too long
            raise ValueError(
                f"{words[0]} does not exist, but {path!r} does: write a path with spaces in "
                f"quotes: {command_line(*command.split(), path, *words[count:])}"
            )


def _refuse_missing_run(command: str, words: Sequence[str]) -> None:
    """Raises ValueError or FileNotFoundError where the first word is no run, nor anything else."""
    run = Path(words[0])
    if run.exists() or run.name == LATEST:
        return
    if later := next((word for word in words[1:] if (Path(word) / "run.yaml").is_file()), None):
        others = [word for word in words if word != later]
        raise ValueError(f"The run comes first: {command_line(command, later, *others)}")
    reason = why_missing(run)
    names = [str(path) for path in RUNS.glob("*") if (path / "run.yaml").is_file()]
    others = f" Runs under {RUNS}/: {listing(names)}." if names else ""
    raise FileNotFoundError(
        f"{run} is not a run folder: {reason[:-1]}.{nearest(str(run), names)}{others} "
        "`pathline train` makes one."
    )


def _is_unknown(word: str) -> bool:
    """Whether a word is no key=value, or its key is no setting."""
    key, equals, _ = word.partition("=")
    if not equals:
        return True
    wrong: list[Problem] = []
    build(Run, merge(to_tree(Run()), nest(key.strip(), None)), wrong)
    return key != SIZE and any(fault.message.startswith("is not a setting") for fault in wrong)
