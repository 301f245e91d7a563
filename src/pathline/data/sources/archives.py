"""Tars of pictures: webdataset shards, or a folder packed as it is. Nothing is unpacked.

A sample is what shares a name up to its first dot: `1.jpg`, `1.txt`, `1.cls`, `1.json`. What
holds for a folder of your own holds here too: metadata, side-cars, folders of classes.
"""

import tarfile
from pathlib import Path, PurePosixPath

from pathline.data.sources.collection import Asked, Folders, source_of
from pathline.data.sources.items import Files, collect, first_part
from pathline.data.sources.listing import reason_of_name
from pathline.data.sources.source import Source
from pathline.data.sources.split_files import files_below, files_of_split

Place = tuple[int, int]  # first byte and number of bytes


def tar(
    *,
    path: Path,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    folders: Folders = "auto",
) -> Source:
    """A tar file or a folder of them (webdataset shards); pictures, txt, cls, json by name.

    image: suffix of the pictures, where a sample has several. folders: as of source=folder.
    """
    files, _ = files_of_split(files_below(path, ".tar"), split)
    parts = []
    for file in files:
        members, left_out = _members(file)
        part = collect(_files(file, members), image)
        part.left_out.update(left_out)
        parts.append(part)
    return source_of(parts, str(path), Asked(caption, label, folders), first_part)


def _files(file: Path, members: dict[str, Place]) -> Files:
    def read(name: str) -> bytes:
        if name not in members:
            raise FileNotFoundError(f"{file} has no member {name}")
        begin, size = members[name]
        with file.open("rb") as opened:
            opened.seek(begin)
            return opened.read(size)

    return Files(str(file), list(members), read, read, dotted=True)


def _members(file: Path) -> tuple[dict[str, Place], dict[str, list[str]]]:
    """Where each member is, and what is left out with its reason; headers alone are read."""
    places: dict[str, Place] = {}
    left_out: dict[str, list[str]] = {}
    try:
        with tarfile.open(file, "r:", errorlevel=2) as members:
            for member in members:
                name = str(PurePosixPath(member.name))
                reason = _reason_against(member)
                if reason:
                    left_out.setdefault(reason, []).append(name)
                elif member.isfile():
                    places[name] = (member.offset_data, member.size)
            end, count = members.offset, len(places)
        with file.open("rb") as raw:
            size = raw.seek(0, 2)
            raw.seek(min(end, size))
            rest = raw.read(tarfile.BLOCKSIZE)
        # tarfile takes a cut header for the end
        if end > size or any(rest) or len(rest) % tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it is cut short after {count} members")
    except (tarfile.TarError, OSError, ValueError) as fault:
        raise ValueError(f"{file} cannot be read as a plain tar: {fault}") from fault
    return places, left_out


def _reason_against(member: tarfile.TarInfo) -> str:
    reasons = (reason_of_name(part) for part in PurePosixPath(member.name).parts)
    if reason := next(filter(None, reasons), ""):
        return reason
    if member.isfile() and member.issparse():
        return "sparse members of a tar"
    return "" if member.isfile() or member.isdir() else "no regular files (links, pipes, devices)"
