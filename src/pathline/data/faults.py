"""Pictures that can't be used as they are: one record, one list on disk, one refusal."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pathline.files import write_whole

LISTED = 10  # problems in one message
SHOWN = 5  # unreadable pictures named in an error


class Fault(NamedTuple):
    """A picture and what is wrong with it."""

    key: str
    reason: str
    digest: str = ""
    size: tuple[int, int] | None = None  # (height, width) of its bucket, where that is known
    temporary: bool = False  # the file could not be read, whatever is in it: it is tried again


def refuse(problems: Sequence[str], where: object) -> None:
    """Raise ValueError that lists all problems; none for no problems."""
    if len(problems) > 1:
        more = [f"… and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        lines = [f"{len(problems)} problems with {where}:", *problems[:LISTED], *more]
        raise ValueError("\n  ".join(lines))
    if problems:
        raise ValueError(problems[0])


def write_faults(file: Path, faults: Sequence[Fault]) -> None:
    """List faults, a JSON object a line; no file if there are none."""
    if faults:
        write_whole(file, "".join(json.dumps(fault._asdict()) + "\n" for fault in faults))
    else:
        file.unlink(missing_ok=True)


def read_faults(file: Path) -> list[Fault]:
    """The faults that `write_faults` listed; none where the file is missing or damaged."""
    try:
        lines = file.read_text("utf-8").splitlines()
        return [Fault(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        return []


def unreadable_problem(
    faults: Sequence[Fault], count: int, max_bad: float, report: Path | None, *, usable: int
) -> str:
    """A sentence where too many of `count` pictures are unreadable, or none is usable; else ""."""
    if len(faults) > max_bad * count or not usable:
        first = "; ".join(fault.reason for fault in faults[:SHOWN])
        listed = f" All are listed in {report}." if report is not None else ""
        return (
            f"{len(faults)} of {count} pictures can't be read, more than data.max_bad={max_bad:g} "
            f"allows: {first}{' …' if len(faults) > SHOWN else ''}.{listed} Repair or remove them, "
            "or raise data.max_bad."
        )
    return ""
