"""Files that are whole or absent, one writer a folder, and digests of content."""

import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

END, BLOCK, BLOCKS = 1 << 20, 4096, 64  # bytes read of a large file: both ends, and 64 blocks
LOCK, LOCKED_BYTE = ".lock", 1 << 20
# What the system reports where no more can be written, in words.
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "a file may not be so large there (`ulimit -f`, or the file system)",
    getattr(errno, "EDQUOT", -1): "your disk quota is used up",
    112: "the disk is full",  # Windows, in the text of safetensors
}


def write_whole(
    file: Path, content: bytes | str | Callable[[Path], object], *, need: int = 0
) -> None:
    """Write a file that is the old or the new one at any moment, never a part, even after a crash.

    content: bytes, text (UTF-8), or a function that writes to the path it is given. need: bytes
    that such a function writes, for the message of a full disk.
    """
    if isinstance(content, str):
        content = content.encode()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with full_disk_explained(file, need if callable(content) else len(content)):
            content(temporary) if callable(content) else temporary.write_bytes(content)
            with temporary.open("rb+") as written:
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


@contextmanager
def full_disk_explained(target: Path, need: int = 0) -> Iterator[None]:
    """Raises OSError with the path, the bytes needed and the bytes free where a disk is full.

    Every other error is raised as it is. need: bytes; 0: unknown.
    """
    try:
        yield
    except Exception as error:
        reason = FULL.get(_error_number(error))
        if reason is None:
            raise
        size = f"{need / 1e6:,.1f} MB" if need else "more space"
        raise OSError(
            f"{target} can't be written because {reason}: it needs {size}, and "
            f"{shutil.disk_usage(_existing(target)).free / 1e6:,.1f} MB are free there. "
            "Free some space or raise the limit, or write to another disk."
        ) from error


def _error_number(error: Exception) -> int:
    """Of the system's error; safetensors has it in its text alone."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    number = re.search(r"os error (\d+)", str(error))
    return int(number[1]) if number else 0


def _existing(path: Path) -> Path:
    return next((each for each in (path, *path.absolute().parents) if each.exists()), Path())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises ValueError where another process holds it.

    The system frees the lock of a process that was killed. Where a file system has no locks, as
    some network mounts, nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        if not _lock(file.fileno()):
            file.seek(0)
            raise ValueError(
                f"{folder} is being written by another process ({file.read().strip() or '?'}). "
                "Wait for it or stop it, or choose another --out."
            )
        # The number is for the message alone: a full disk may leave it out.
        with suppress(OSError):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()}\n".encode())
        try:
            yield
        finally:
            file.truncate(0)


def is_locked(folder: Path) -> bool:
    """Whether a process is writing in the folder."""
    try:
        with (folder / LOCK).open("r+", encoding="utf-8") as file:
            return not _lock(file.fileno())
    except OSError:
        return False


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False where another process has it."""
    try:
        if sys.platform == "win32":
            # one byte far behind the text, which another process can then still read
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def decode_text(content: bytes, name: object) -> str:
    """The text of a file: UTF-8, with or without a mark at its beginning.

    Raises ValueError, naming file and byte, for every other encoding: none is guessed.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{name} is text in UTF-16. Save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise ValueError(
            f"{name} is not UTF-8 text: byte {fault.start + 1}, in line {line}, is "
            f"0x{content[fault.start]:02x}. Save it as UTF-8."
        ) from None
    if "\0" in text:
        raise ValueError(f"{name} is no text: byte {content.index(0) + 1} is zero. Remove it.")
    return text


def why_missing(path: Path) -> str:
    """A sentence on what is wrong with a path that can't be opened, or is no folder."""
    try:
        path.stat()
    except OSError as fault:
        if path.is_symlink():
            return f"{path} is a link to {os.readlink(path)}, which does not exist."
        if not isinstance(fault, FileNotFoundError | NotADirectoryError):
            return f"{path} can't be opened: {fault.strerror}."
    above = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    if above.is_file():
        return f"there is no {path.absolute()}: {above} is a file."
    around = listing_of(above) if above == path.absolute().parent else ""
    return f"there is no {path.absolute()}{around}."


def listing_of(folder: Path, most: int = 12) -> str:
    """The first names in a folder, for a message about one that is not in it."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return ""
    return f"; next to it are {', '.join(names[:most])}" if names else ""


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
