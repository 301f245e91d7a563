"""Checkpoints that exist whole or not at all: temporary name, manifest last, rename.

A checkpoint is a folder `step-00001000` of safetensors files, `state.json` and whatever texts the
caller adds, all listed with size and digest in `manifest.json`. Nothing is unpickled. A run whose
weights are sharded writes `shards/` instead, each rank its part (`sharded_checkpoint.py`).
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from pathline.files import digest, full_disk_explained
from pathline.training import sharded_checkpoint as shards

MANIFEST, STATE = "manifest.json", "state.json"
# What reading JSON of another shape than expected raises.
MISREAD = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
STEP = re.compile(r"step-\d{8}")
Groups = Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor


class Checkpoint(NamedTuple):
    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def name(update: int) -> str:
    """The folder's name; sorts as the updates do."""
    return f"step-{update:08d}"


def save(
    root: Path, update: int, tensors: Groups, state: Mapping[str, Any], texts: Mapping[str, str]
) -> Path:
    """Write the checkpoint of `update` under root, whole or not at all; returns its folder.

    Raises OSError if the disk is too full, before anything is written if the size is known.
    """
    need = sum(map(bytes_of, tensors.values()))
    refuse_full_disk(root, need)
    work = begin(root, update)
    try:
        with full_disk_explained(root / name(update), need):
            for stem, group in tensors.items():
                # safetensors stores no views: contiguous copies on the CPU.
                whole = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
                save_file(whole, work / f"{stem}.safetensors")
            return seal(root, update, work, state, texts)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def begin(root: Path, update: int) -> Path:
    """An empty folder to write the checkpoint of `update` in."""
    work = root / f".tmp-{name(update)}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def seal(
    root: Path, update: int, work: Path, state: Mapping[str, Any], texts: Mapping[str, str]
) -> Path:
    """Make what was written in `work` the checkpoint of `update`: state, manifest, rename."""
    for file, text in {**texts, STATE: json.dumps(state, indent=1)}.items():
        (work / file).write_text(text, encoding="utf-8")
    # Files and folders reach the disk before the manifest that says they are whole.
    files = {path.relative_to(work).as_posix(): _stamp(path) for path in _files(work)}
    for folder in {work, *(path.parent for path in _files(work))}:
        _sync(folder)
    manifest = {"update": update, "files": files, "digest": digest(json.dumps(files))}
    _write_synced(work / MANIFEST, json.dumps(manifest, indent=1))
    # A checkpoint of the same update is moved aside first: a rename cannot replace a full folder.
    final, aside = root / name(update), work.with_name(f"{work.name}-old")
    if final.exists():
        os.replace(final, aside)
    os.replace(work, final)
    _sync(root)
    shutil.rmtree(aside, ignore_errors=True)
    return final


def load(folder: Path, *, only: Collection[str] = ()) -> Checkpoint:
    """The tensors (of the files `only`, by stem; all if empty) and the state of a whole checkpoint.

    Raises ValueError naming what is wrong.
    """
    if fault := fault_of(folder):
        raise ValueError(
            f"{folder} is not a whole checkpoint: {fault}. Choose another, or --resume latest."
        )
    # Of the files that the manifest lists, for systems and synchronising programs leave others.
    files = [folder / file for file in sorted(_listed(folder)) if file.endswith(".safetensors")]
    if (folder / shards.SHARDS).is_dir():
        tensors = shards.load(files, only)
    else:
        tensors = {path.stem: load_file(path) for path in files if not only or path.stem in only}
    return Checkpoint(folder, tensors, json.loads((folder / STATE).read_text("utf-8")))


def fault_of(folder: Path, *, with_digests: bool = True) -> str:
    """What is wrong with a checkpoint folder, in words; "" if every file is as it was written.

    Files that its manifest does not list are no part of it. with_digests: read every file whole;
    False compares their sizes alone, at once.
    """
    try:
        files = _listed(folder)
    except ValueError as error:
        return str(error)
    faults = (_fault_of_file(folder, *each, with_digests) for each in files.items())
    return next(filter(None, faults), "")


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """The files of a checkpoint with size and digest. Raises ValueError in words."""
    file = folder / MANIFEST
    if not file.is_file():
        raise ValueError(f"{MANIFEST} is missing")
    try:
        manifest = json.loads(file.read_text("utf-8"))
        update, stamps = int(manifest["update"]), manifest["files"].items()
        files = {path: (int(stamp["bytes"]), str(stamp["sha256"])) for path, stamp in stamps}
    except (*MISREAD, OSError):
        raise ValueError(f"{MANIFEST} cannot be read") from None
    if STEP.fullmatch(folder.name) and update != update_of(folder):
        raise ValueError(f"{MANIFEST} is of update {update}: the folder was renamed")
    # Nothing outside of the folder is opened, whatever a damaged manifest names.
    outside = [path for path in files if ".." in Path(path).parts or Path(path).is_absolute()]
    if outside or STATE not in files:
        raise ValueError(f"{MANIFEST} does not list the files of a checkpoint")
    # A file that is not listed would be no part of it, so the list itself has a digest.
    listed = digest(json.dumps(manifest["files"]))
    if manifest.get("digest", listed) != listed:
        raise ValueError(f"{MANIFEST} is not the file that was written (its digest differs)")
    return files


def _fault_of_file(folder: Path, file: str, stamp: tuple[int, str], with_digest: bool) -> str:
    """What is wrong with one file; sizes first, for a digest reads it whole."""
    size, written = stamp
    try:
        if not (folder / file).is_file():
            return f"{file} is missing"
        if (now := (folder / file).stat().st_size) != size:
            return f"{file} has {now} bytes instead of {size}"
        if with_digest and digest(folder / file) != written:
            return f"{file} is not the file that was written (its digest differs)"
    except (OSError, ValueError) as error:  # a damaged disk; a name with a zero byte
        return f"{file} cannot be read ({error})"
    return ""


def folders(root: Path) -> list[Path]:
    """The checkpoint folders under root, whole or damaged, by update; copies of them are none."""
    return sorted(each for each in root.glob("step-*") if STEP.fullmatch(each.name))


def update_of(folder: Path) -> int:
    """The update of a checkpoint, from its name."""
    return int(folder.name.removeprefix("step-"))


def newest(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint under root; `warn` is called with each damaged newer one.

    None: there is none yet. Raises ValueError, naming what is wrong with each, if all are damaged.
    """
    faults = {}
    for folder in reversed(folders(root)):
        fault = fault_of(folder)
        if not fault:
            for damaged, reason in faults.items():
                warn(f"{damaged} is passed over: {reason}.")
            return folder
        faults[folder] = fault
    if faults:
        reasons = "".join(f"\n  {folder.name}: {fault}" for folder, fault in faults.items())
        raise ValueError(
            f"No checkpoint in {root} is whole, and nothing was changed:{reasons}\n"
            "Restore one from a copy, or move these folders away to begin again at update 0."
        )
    return None


def prune(
    root: Path, *, recent: int, every: int, keep: Collection[str] = (), upto: int | None = None
) -> list[Path]:
    """Delete all but the `recent` newest, the multiples of `every` and those named in `keep`.

    Returns the deleted folders. upto: checkpoints of later updates, which a run resumed from an
    earlier one has left damaged, are neither counted nor deleted. A folder without a manifest does
    not count as recent, so the last good checkpoint stays.
    """
    whole = [folder for folder in folders(root) if (folder / MANIFEST).is_file()]
    if upto is not None:
        whole = [folder for folder in whole if update_of(folder) <= upto]
    old = [f for f in whole[: -max(recent, 1)] if not (every and update_of(f) % every == 0)]
    old = [folder for folder in old if folder.name not in keep]
    for folder in old:
        shutil.rmtree(folder)
    # Left by a save that was killed before its rename.
    for folder in root.glob(".tmp-step-*"):
        shutil.rmtree(folder, ignore_errors=True)
    return old


def refuse_full_disk(root: Path, need: int) -> None:
    """Raises OSError unless `need` bytes and a little more are free under root."""
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < need * 1.05 + (1 << 20):
        raise OSError(
            f"The checkpoint needs {need / 1e6:.1f} MB, but {root} has {free / 1e6:.1f} MB free. "
            "Free some space, or choose another --out."
        )


def bytes_of(group: Mapping[str, Tensor]) -> int:
    """Of a group of tensors; of split ones as if they were whole."""
    return sum(tensor.numel() * tensor.element_size() for tensor in group.values())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _stamp(path: Path) -> dict[str, Any]:
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
