"""Files that are whole or absent, and digests of content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(file: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write a file that is the old or the new one at any moment, never a part, even after a crash.

    content: bytes, text (UTF-8), or a function that writes to the path it is given.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def digest(content: bytes | str) -> str:
    """SHA-256 of bytes, or of text as UTF-8, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
