"""One writer at a time in a folder; the system frees the lock of a process that was killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises ValueError where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        # The system frees the lock of a process that was killed.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"{folder} is being written by another process ({file.read().strip() or '?'}). "
                "Wait for it, or choose another --out."
            ) from None
        # Who holds it, for the message to another writer.
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
