"""What lies below a folder: the files that are read, and what is left out, with the reason."""

import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from pathline.data.transforms import SUFFIXES, has_heif
from pathline.images import is_sheet

SYSTEM = {  # what systems and network drives leave in a folder, in lower case
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx"),
    *("$recycle.bin", "system volume information", "lost+found", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", ".ds_store", ".thumbnails", ".trash", ".trashes", ".picasa.ini"),
    *(".spotlight-v100", ".fseventsd", ".temporaryitems", ".appledouble", "icon\r"),
}
SYSTEM_PREFIXES = ("._", ".trash-", "synofile_thumb", "synoindex", ".fuse_hidden", ".nfs")
UNREAD = {  # kinds of files in which people have pictures -> their suffixes
    "HEIC, which needs a package: pip install 'pathline[heic]'": ("heic", "heif", "hif"),
    "JPEG XL, which is not read: convert them to PNG": ("jxl",),
    "raw pictures of cameras, which are not read: develop them to JPEG or PNG": (
        *("cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raf"),
        *("pef", "srw", "x3f", "raw", "3fr", "iiq", "kdc", "mrw", "erf", "rwl"),
    ),
    "pictures of kinds that are not read: convert them to PNG": (
        *("svg", "eps", "ai", "pdf", "exr", "hdr", "tga", "pcx", "sgi", "xcf", "kra", "wmf"),
        *("emf", "pict", "pct", "xbm", "xpm", "jxr", "wdp", "fits", "fit", "icns", "cur", "ras"),
    ),
    "videos, which are not read: take pictures out of them": (
        *("mp4", "mov", "avi", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp", "mts"),
        *("m2ts", "ogv", "ts"),
    ),
    "archives, which are not read: unpack them": (
        *("zip", "rar", "7z", "gz", "tgz", "bz2", "xz", "zst", "cbz", "cbr"),
    ),
}
LISTED = 5  # names in a sentence
SHEETS = re.compile(  # names that pathline gives to pages of several pictures
    r"(contact-sheet|sheet|check|seen|unseen|held_out|codec-check)(-\d+)?\.png"
    r"|trajectory(-\d+)?\.(png|gif)|[\w-]+-\d{8}\.png"
)


class Survey(NamedTuple):
    """A folder's contents."""

    files: list[Path]  # regular ones, sorted
    left_out: dict[str, list[str]]  # why -> names below the folder
    problems: list[str]  # sentences on what could not be looked into


def survey(root: Path) -> Survey:
    """Every file below a folder, each folder's sorted; what is no data is listed with its reason.

    A link to a folder is followed once, and never back into a folder around it.
    """
    result, linked = Survey([], {}, []), set[Path]()
    waiting: list[tuple[Path, frozenset[Path]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        inside = above | {folder.resolve()}
        folders = []
        for path in _contents(folder, result.problems):
            reason = _reason_against(path, inside, linked)
            if reason:
                result.left_out.setdefault(reason, []).append(path.relative_to(root).as_posix())
            elif reason is None:
                folders.append((path, inside))
            else:
                result.files.append(path)
        waiting += reversed(folders)
    return result


def _contents(folder: Path, problems: list[str]) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as fault:
        problems.append(f"{folder} cannot be opened: {fault.strerror}.")
        return []


def _reason_against(path: Path, above: frozenset[Path], linked: set[Path]) -> str | None:
    """Why a path is left out; "" for a file that is read, None for a folder to look into."""
    if reason := reason_of_name(path.name):
        return reason
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        is_link = path.is_symlink()
        return "links to nothing" if is_link else f"cannot be opened ({fault.strerror})"
    if stat.S_ISDIR(mode):
        return _reason_against_folder(path, above, linked)
    if not stat.S_ISREG(mode):
        return "no regular files (pipes, sockets, devices)"
    is_page = SHEETS.fullmatch(path.name) and is_sheet(path)  # few files need be opened
    return "contact sheets and grids that pathline wrote" if is_page else ""


def _reason_against_folder(path: Path, above: frozenset[Path], linked: set[Path]) -> str | None:
    if path.is_symlink():
        real = path.resolve()
        if real in above or real in linked:
            return "links to folders that are read already"
        linked.add(real)
    if (path / "run.yaml").is_file() and (path / "facts.json").is_file():
        return "run folders of pathline"
    is_cache = (path / "cache.json").is_file() and (path / "index.jsonl").is_file()
    return "caches of pathline" if is_cache else None


def reason_of_name(name: str) -> str:
    """Why a file or folder of this name is no data; "" for other names."""
    lower = name.lower()
    if lower in SYSTEM or lower.startswith(SYSTEM_PREFIXES):
        return "thumbnails and files of the system"
    return "hidden (their names begin with a dot)" if name.startswith(".") else ""


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, without its dot."""
    return PurePosixPath(name).suffix[1:].lower()


def is_picture(path: PurePath | str) -> bool:
    """Whether a file's suffix is that of a picture that can be read."""
    suffix = suffix_of(str(path))
    return suffix in SUFFIXES or (suffix in ("heic", "heif", "hif") and has_heif())


def walk(root: Path) -> Iterator[Path]:
    """Every file below a folder that is data."""
    yield from survey(root).files


def sentences(left_out: dict[str, list[str]], unused: Iterable[str]) -> list[str]:
    """A sentence for each reason why files are left out. unused: those that nothing reads."""
    groups = {reason: list(names) for reason, names in left_out.items()}
    kinds = {suffix: kind for kind, suffixes in UNREAD.items() for suffix in suffixes}
    for name in unused:
        groups.setdefault(kinds.get(suffix_of(name), "files of other kinds"), []).append(name)
    return [f"{reason}: {counted(names)}" for reason, names in groups.items() if names]


def counted(names: Sequence[str]) -> str:
    """How many names, by suffix, with the first of them."""
    suffixes = Counter(f".{suffix}" if (suffix := suffix_of(n)) else "no suffix" for n in names)
    if len(names) <= LISTED:
        return ", ".join(map(shown, names))
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
    return f"{len(names)} ({kinds}), the first {shown(names[0])}"


def shown(name: str) -> str:
    """A name as it can be printed on one line."""
    return name if name.isprintable() else ascii(name)
