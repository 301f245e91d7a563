"""Mutated folders of pictures: every picture and caption is used, named, or refused.

Each case writes a folder, a tar or a parquet file of a few pictures as people have them, then adds
one to four oddities: other formats, side-cars and metadata in all spellings and encodings, broken
files, thumbnails, pipes, links, strange names. The oracle counts along: `pathline data` must exit 0
with the number of pictures and captions that were written and name all that it leaves out, or exit
2 and name every file that is wrong. A quarter of the cases goes on to train one update.
"""

import csv
import io
import json
import os
import random
import re
import socket
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mutations import Answer, Case
from PIL import Image

from pathline.images import save_sheet
from pathline.recipes import data, train  # so that their imports are not counted as a hang

COMMANDS = data.data, train.train
TINY = (
    *("data.size=8", "train.updates=1", "train.batch=2", "train.save_every=1", "device=cpu"),
    *("train.validate_every=0", "train.sample_every=0", "train.probe_every=0", "schedule.warmup=0"),
    *("backbone.size=S/4", "backbone.width=32", "backbone.depth=1", "backbone.heads=2"),
    *("train.precision=fp32", "data.holdout=0"),
)
COUNTS = re.compile(r"(\d+) pictures; (\d+) unreadable; (\d+) with a caption")
STRANGE = (
    "[b]",
    "[/b]x",
    "a*b?",
    "-x",
    " x ",
    "ü é",
    "e\u0301",
    "日本",
    "x\ny",
    "x\x1b[31m",
    "a" * 180,
)
FORMATS = {
    **{"png": "PNG", "jpg": "JPEG", "JPEG": "JPEG", "jfif": "JPEG", "webp": "WEBP", "bmp": "BMP"},
    **{"gif": "GIF", "tif": "TIFF", "avif": "AVIF", "jp2": "JPEG2000", "ppm": "PPM", "PNG": "PNG"},
}
UNREAD = ("jxl", "heic", "cr2", "mp4", "zip", "svg", "tga", "json", "md", "xyz")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK")


class Folder:
    """What has been written, and what must come of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.captions: dict[str, bool] = {}  # readable picture -> whether it has a caption
        self.broken: list[str] = []  # pictures that must be counted as unreadable
        self.named: list[str] = []  # files that must be named, or counted by suffix
        self.refused: list[str] = []  # what a refusal must name
        self.has_metadata = False

    def write(self, name: str, content: bytes | str) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def free(self) -> list[str]:
        """Pictures without a caption."""
        written = {name.rpartition(".")[0] for name in self.refused}
        free = [name for name, has_caption in self.captions.items() if not has_caption]
        return sorted(name for name in free if name.rpartition(".")[0] not in written)


def picture(rng: random.Random, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A small picture of noise."""
    size = rng.choice([(16, 16), (9, 20), (20, 9), (1, 1), (40, 3)])
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(noise)
    image = Image.new("I;16", size, 300) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def prepare(shared: Path) -> None:
    """Nothing is shared."""


# What a folder begins with -----------------------------------------------------------------------


def begin(rng: random.Random, root: Path) -> tuple[Folder, str]:
    """A folder of four to eight pictures: flat, of classes, for kohya's trainers, or nested."""
    folder = Folder(root)
    shape = rng.choice(["flat", "flat", "flat", "classes", "kohya", "nested"])
    homes = {
        "flat": [""],
        "classes": ["cat/", "dog/"],
        "kohya": ["3_sks cat/", "10_dog/"],
        "nested": ["", "a/b/", "c/"],
    }[shape]
    for number in range(rng.randint(4, 8)):
        suffix = rng.choice([*FORMATS] if rng.random() < 0.3 else ["png", "jpg"])
        name = f"{homes[number % len(homes)]}p{number}.{suffix}"
        folder.write(name, picture(rng, FORMATS[suffix]))
        folder.captions[name] = False
    return folder, shape


# Oddities: each takes the folder on and says what it did -----------------------------------------


def side_cars(rng: random.Random, folder: Folder) -> str:
    """Side-cars of all pictures without a caption, in one spelling."""
    suffix = rng.choice(["txt", "TXT", "caption", "Caption", "captions", "full"])
    style = rng.choice(["plain", "bom", "crlf", "markup", "long", "lines", "number", "emoji"])
    text = {
        "plain": "a red cat", "bom": "\ufeffa red cat", "crlf": "a red cat\r\n",
        "markup": "[/b] [red]cat :smile:", "long": "word " * 600, "lines": "a\n\nb\n",
        "number": "2024", "emoji": "a 🐈 \u200d",
    }[style]  # fmt: skip
    for name in folder.free():
        stem = name if suffix == "full" else name.rpartition(".")[0]
        folder.write(f"{stem}.{'txt' if suffix == 'full' else suffix}", text)
        folder.captions[name] = True
    return f".{suffix} {style}"


def wrong_text(rng: random.Random, folder: Folder) -> str:
    """One or several side-cars that are no UTF-8 text."""
    kind = rng.choice(["latin-1", "utf-16", "zero"])
    content = {
        "latin-1": "café".encode("latin-1"),
        "utf-16": "cat".encode("utf-16"),
        "zero": b"a\0",
    }
    names = folder.free()[: rng.randint(1, 3)]
    for name in names:
        stem = name.rpartition(".")[0]
        folder.write(f"{stem}.txt", content[kind])
        folder.refused.append(f"{stem}.txt")
    return f"{kind} in {len(names)}"


def empty_text(rng: random.Random, folder: Folder) -> str:
    for name in folder.free():
        folder.write(f"{name.rpartition('.')[0]}.txt", rng.choice(["", " \n", "\ufeff"]))
    return "side-cars without a word"


def orphan_text(rng: random.Random, folder: Folder) -> str:
    name = rng.choice(["README.txt", "gone.txt", "gone.caption", "captions.csv", "labels.jsonl"])
    folder.write(name, "a red cat\n")
    folder.named.append(name)
    return name


def metadata(rng: random.Random, folder: Folder) -> str:
    """Metadata of all pictures without a caption, in one format and spelling."""
    names = [name for name in folder.free() if "\udce9" not in name]  # JSON alone can hold it
    if folder.has_metadata or not names:
        return "none"
    folder.has_metadata = True
    key = rng.choice(["file_name", "File_Name", "FILE_NAME", "filename"])
    column = rng.choice(["text", "Text", "caption", "prompt", "captions"])
    values: list[Any] = rng.choice(
        [["a red cat", "a dog"], [2024, "a red cat"], [2024.0, 1.5], [["a", "b"], "c"], [["a"]]]
    )
    kind = rng.choice(["jsonl", "jsonl", "csv", "semicolons", "tabs"])
    if column == "captions":
        values, kind = [["a red cat", "a cat"]], "jsonl"
    if kind != "jsonl":
        values = ["a red, round cat", '"quoted"', "two\nlines"]
    records: list[dict[str, Any]] = [
        {key: name, column: values[number % len(values)]} for number, name in enumerate(names)
    ]
    label = rng.choice([None, [0, 1], [0.0, 1.0], [True, False], ["cat", "dog"], [1, "cat"]])
    for number, record in enumerate(records if label else ()):
        record["Label"] = label[number % 2] if label else None
    if rng.random() < 0.3:
        for record in records:
            record["description"] = "told nowhere else"
        folder.named.append("description")
    text, name = _written(rng, kind, records)
    folder.write(name, text)
    folder.captions |= dict.fromkeys(names, True)
    return f"{name} {column}={values[0]!r} label={label}"


def _written(rng: random.Random, kind: str, records: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Text and name of a metadata file."""
    ends = rng.choice(["\n", "\r\n"])
    if kind == "jsonl":
        text = ends.join(map(json.dumps, records))
        name = rng.choice(["metadata.jsonl", "Metadata.JSONL", "METADATA.jsonl"])
    else:
        file = io.StringIO()
        delimiter = {"csv": ",", "semicolons": ";", "tabs": "\t"}[kind]
        writer = csv.DictWriter(file, [*records[0]], delimiter=delimiter, lineterminator=ends)
        writer.writeheader()
        writer.writerows(records)
        text = file.getvalue()
        name = rng.choice(["metadata.csv", "Metadata.csv", "METADATA.CSV"])
    return rng.choice(["", "\ufeff"]) + text, name


def wrong_metadata(rng: random.Random, folder: Folder) -> str:
    """Several wrong lines, all of which must be told."""
    if folder.has_metadata:
        return "none"
    folder.has_metadata = True
    wrong = {
        "{": "no JSON", "[1]": "file_name", '{"text": "x"}': "file_name", "[" * 9000: "no JSON",
        '{"file_name": "../x.png"}': "leads out", '{"file_name": "/etc/passwd"}': "leads out",
        '{"file_name": 3}': "file_name", '{"file_name": ""}': "file_name",
    }  # fmt: skip
    lines = rng.sample(sorted(wrong), k=rng.randint(1, 4))
    folder.write("metadata.jsonl", "\n".join(lines))
    folder.refused += [f"line {number}" for number in range(1, len(lines) + 1)]
    return f"{len(lines)} wrong lines"


def missing_picture(_: random.Random, folder: Folder) -> str:
    """Metadata of a picture that is not there."""
    if folder.has_metadata:
        return "none"
    folder.has_metadata = True
    folder.write("metadata.jsonl", json.dumps({"file_name": "gone.png", "text": "a cat"}))
    folder.broken.append("gone.png")
    return "metadata of no picture"


def broken_picture(rng: random.Random, folder: Folder) -> str:
    whole = picture(rng)
    content = rng.choice(
        [b"", b"\0" * 64, whole[: len(whole) // 2], b"<html>no</html>", b"text", whole[:20]]
    )
    name = f"broken{len(folder.broken)}.{rng.choice(['png', 'jpg', 'webp'])}"
    folder.write(name, content)
    folder.broken.append(name)
    return f"{name}: {content[:12]!r}"


def unread_kind(rng: random.Random, folder: Folder) -> str:
    suffix, count = rng.choice(UNREAD), rng.choice([1, 2, 9])
    for number in range(count):
        folder.write(f"other{number}.{suffix}", b"\xff\x0a content")
    folder.named.append(f"other0.{suffix}")
    return f"{count} .{suffix}"


def another_mode(rng: random.Random, folder: Folder) -> str:
    mode = rng.choice(MODES)
    name = f"mode{len(folder.captions)}.tif"
    folder.write(name, picture(rng, "TIFF", mode))
    folder.captions[name] = False
    return mode


def thumbnails(rng: random.Random, folder: Folder) -> str:
    name = rng.choice(
        [
            *("@eaDir/p0.png/SYNO.jpg", ".thumbnails/p0.png", "__MACOSX/._p0.png", "._p0.png"),
            *("Thumbs.db", ".DS_Store", "#recycle/p0.png", "$RECYCLE.BIN/x.png", "desktop.ini"),
        ]
    )
    folder.write(name, picture(rng))
    folder.named.append(name.partition("/")[0])
    return name


def no_regular_file(rng: random.Random, folder: Folder) -> str:
    kind = rng.choice(["pipe", "socket", "link to nothing", "link back", "folder"])
    file = folder.root / f"odd {kind}.png"
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "socket":
            os.chdir(folder.root)  # a path of a socket must be short
            with socket.socket(socket.AF_UNIX) as opened:
                opened.bind(file.name)
            os.chdir(folder.root.parent)
        case "link to nothing":
            file.symlink_to("nowhere.png")
        case "link back":
            file.symlink_to(folder.root)
        case "folder":
            file.mkdir()
    if kind != "folder":
        folder.named.append(file.name)
    return kind


def our_own(rng: random.Random, folder: Folder) -> str:
    """What pathline wrote: a sheet, a grid, a run folder, a cache."""
    kind = rng.choice(["sheet.png", "contact-sheet.png", "fixed-00001000.png", "run", "cache"])
    if kind.endswith(".png"):
        save_sheet(Image.new("RGB", (64, 64)), folder.root / kind)
    else:
        files = {"run": ("run.yaml", "facts.json"), "cache": ("cache.json", "index.jsonl")}[kind]
        for file in files:
            folder.write(f"{kind}/{file}", "{}")
        folder.write(f"{kind}/samples/x.png", picture(rng))
    folder.named.append(kind)
    return kind


def strange_name(rng: random.Random, folder: Folder) -> str:
    name = f"{rng.choice(STRANGE)}.png"
    folder.write(name, picture(rng))
    folder.captions[name] = False
    if rng.random() < 0.5:
        folder.write(f"{name[:-4]}.txt", "a strange cat")
        folder.captions[name] = True
    return ascii(name)


def bytes_as_name(rng: random.Random, folder: Folder) -> str:
    """A name that is no UTF-8."""
    name = os.fsdecode(b"caf\xe9.png")
    folder.write(name, picture(rng))
    folder.captions[name] = False
    return ascii(name)


def several_side_cars(_: random.Random, folder: Folder) -> str:
    """Two side-cars that say different things: the second must be named."""
    free = folder.free()
    if not free:
        return "none"
    stem = free[0].rpartition(".")[0]
    folder.write(f"{stem}.txt", "a cat")
    folder.write(f"{stem}.caption", "another cat")
    folder.named.append(f"{stem}.caption")
    folder.captions[free[0]] = True
    return stem


ODDITIES: tuple[Callable[[random.Random, Folder], str], ...] = (
    *(side_cars, side_cars, metadata, metadata, wrong_text, empty_text, orphan_text),
    *(wrong_metadata, missing_picture, broken_picture, unread_kind, another_mode, thumbnails),
    *(no_regular_file, our_own, strange_name, bytes_as_name, several_side_cars),
)
PACKED = (side_cars, metadata, wrong_text, empty_text, orphan_text, broken_picture, unread_kind)


def mutate(rng: random.Random, _: Path, folder: Path) -> Case:
    """A folder, or a tar of one, with one to four oddities."""
    name = rng.choice(["set", "photos [2024]", "a*b?"])
    made, shape = begin(rng, folder / name)
    is_tar = rng.random() < 0.15
    chosen = rng.sample(PACKED if is_tar else ODDITIES, k=rng.randint(1, 4))
    details = [f"{oddity.__name__}: {oddity(rng, made)}" for oddity in dict.fromkeys(chosen)]
    if is_tar:
        with tarfile.open(folder / f"{name}.tar", "w") as packed:
            packed.add(folder / name, arcname=".")
        name = f"{name}.tar"
    commands = [["data", name, "--out", "sheet.png"]]
    if rng.random() < 0.25:
        commands.append(["train", name, *TINY, "--out", "run"])
    kind = f"{'tar' if is_tar else 'folder'}: {chosen[0].__name__.replace('_', ' ')}"
    return Case(
        kind, f"{shape}; {'; '.join(details)}", commands, lambda answers: judge(made, answers)
    )


def judge(folder: Folder, answers: list[Answer]) -> str:
    """What is wrong with what the commands did."""
    first = answers[0]
    if first.code == 2 or folder.refused:
        return _judge_refusal(folder, first)
    if wrong := _judge_counts(folder, first.text):
        return wrong
    for answer in answers:
        missing = [name for name in folder.named if not is_named(name, answer.text)]
        if missing and answer.code == 0:
            return f"not named: {missing}"
    if "text.length" in answers[-1].text:
        return ""
    partly = any(folder.captions.values()) and not all(folder.captions.values())
    if answers[-1].code == 2 and not folder.broken and not partly:
        return "training refused what is right"
    return ""


def _judge_refusal(folder: Folder, answer: Answer) -> str:
    if answer.code != 2 and all(name in answer.text for name in folder.refused):
        return ""  # left out by name, since another side-car goes before it
    if answer.code != 2:
        return f"not refused: {folder.refused}"
    if not folder.refused:
        return "refused what is right"
    missing = [name for name in folder.refused if name not in answer.text]
    return f"not told: {missing}" if missing and len(folder.refused) <= 10 else ""


def _judge_counts(folder: Folder, text: str) -> str:
    counts = COUNTS.search(text)
    if not counts:
        return "no counts"
    total, unreadable, captioned = map(int, counts.groups())
    expected = len(folder.captions) + len(folder.broken), len(folder.broken)
    if (total, unreadable) != expected:
        return f"{(total, unreadable)} pictures and unreadable, {expected} were written"
    written = sum(folder.captions.values())
    is_kohya = any(re.match(r"\d+_", name) for name in folder.captions)
    if captioned != written and not (is_kohya and captioned == len(folder.captions)):
        return f"{captioned} captions, {written} were written"
    return ""


def is_named(name: str, text: str) -> bool:
    """Whether a file is named, or counted by its suffix."""
    suffix = name.rpartition(".")[2]
    return name in text or bool(re.search(rf"\d+ \.{re.escape(suffix.lower())}\b", text))
