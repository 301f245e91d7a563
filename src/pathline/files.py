"""Files that are whole or absent, and digests of content."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

END, BLOCK, BLOCKS = 1 << 20, 4096, 64  # bytes read of a large file: both ends, and 64 blocks


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
        # On disk before the rename, or a crash could leave the name of an empty file.
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def unused(file: Path) -> Path:
    """The file, or with a number behind its name if it exists: nothing is overwritten."""
    if not file.exists():
        return file
    paths = (file.with_stem(f"{file.stem}-{number}") for number in range(2, 10**6))
    return next(path for path in paths if not path.exists())


def digest(content: bytes | str | Path) -> str:
    """SHA-256 of bytes, of text as UTF-8, or of a whole file, in hexadecimal."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def digest_samples(files: Iterable[Path]) -> str:
    """12 hex digits that tell weights apart in milliseconds, in the order of the files.

    Of each file: its size, up to 1 MiB at either end and 64 blocks between. A small file is read
    whole, one that is missing is left out, names don't count.
    """
    total = hashlib.sha256()
    for file in files:
        if not file.is_file():
            continue
        size = file.stat().st_size
        total.update(f"{size} ".encode())
        with file.open("rb") as stream:
            total.update(stream.read(END))
            # Blocks evenly between the ends: weights that differ little still differ there.
            for block in range(BLOCKS if size > 2 * END else 0):
                stream.seek(END + block * (size - 2 * END) // BLOCKS)
                total.update(stream.read(BLOCK))
            stream.seek(max(0, size - END))
            total.update(stream.read(END))
    return total.hexdigest()[:12]
