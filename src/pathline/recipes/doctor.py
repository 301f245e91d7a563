"""`pathline doctor`: what this machine has, and what to do where something is missing."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from pathline.console import open_console, say_on
from pathline.training.device import pick_device, product_rate

GIB = 1 << 30
MEMORY, DISK = 4, 5  # GiB below which there is a warning
OPTIONAL = {
    "diffusers": "pip install 'pathline[codecs]'",
    "matplotlib": "pip install 'pathline[bench]'",
    "pytest": "pip install 'pathline[dev]'",
}
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Finding(NamedTuple):
    """One line of the report. note: nothing to do; warn: a limit; bad: pathline will not work."""

    state: Literal["ok", "note", "warn", "bad"]
    subject: str
    text: str


def doctor() -> int:
    """Check Python, torch, devices, speed, disk and packages; 1 if something must be repaired."""
    say, bad = say_on(open_console()), 0
    for state, subject, text in _findings():
        bad += state == "bad"
        say(f"{state:>4}  {subject:<14} {text}")
    say(f"{bad} to repair." if bad else "Everything that must work does.")
    return 1 if bad else 0


def _findings() -> Iterator[Finding]:
    yield Finding("ok", "python", sys.version.split()[0])
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield _vision()
    yield from _devices()
    yield _bf16()
    yield _rates(pick_device("auto"))
    yield _memory()
    yield _disk(Path.cwd())
    yield from _packages()
    yield from _environment()


def _vision() -> Finding:
    """A torchvision of another build breaks transformers and diffusers at import."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("ok", "torchvision", "absent, as it should be: pathline does without")
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # of any kind: its own code runs
        repair = f"present but broken ({error}). Run: pip uninstall torchvision"
        return Finding("bad", "torchvision", repair)
    return Finding("note", "torchvision", "present and loads; pathline does without")


def _devices() -> Iterator[Finding]:
    yield Finding("ok", "cpu", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index}", f"{card.name}, {card.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "available")
    elif torch.cuda.device_count() == 0:
        yield Finding("note", "gpu", "none; training runs on the CPU (device=cpu)")


def cpu_flags(text: str) -> set[str]:
    """The bf16 instruction sets named in a /proc/cpuinfo."""
    return {"avx512_bf16", "amx_bf16", "bf16", "svebf16"} & {*text.split()}


def _bf16() -> Finding:
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return Finding("ok", "bf16", "supported by the GPU")
        return Finding("warn", "bf16", "not supported by the GPU. Set train.precision=fp16")
    info = Path("/proc/cpuinfo")
    if flags := cpu_flags(info.read_text("utf-8")) if info.is_file() else set():
        return Finding("ok", "bf16", f"the CPU has {', '.join(sorted(flags))}")
    return Finding("note", "bf16", "the CPU has no instructions for it; fp32 is faster")


def _rates(device: torch.device) -> Finding:
    fp32, bf16 = (product_rate(device, kind) / 1e9 for kind in (torch.float32, torch.bfloat16))
    text = f"fp32 {fp32:.0f}, bf16 {bf16:.0f} GFLOP/s on {device} (bf16 is {bf16 / fp32:.1f}× fp32)"
    return Finding("ok", "matrix product", text)


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    except (ValueError, OSError, AttributeError):  # not on every system
        return Finding("note", "memory", "unknown on this system")
    if size < MEMORY:
        return Finding("warn", "memory", f"{size:.0f} GiB; training wants {MEMORY}")
    return Finding("ok", "memory", f"{size:.0f} GiB")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    text = f"{free:.0f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("bad", "disk", f"{folder} can't be written. Set --out, or change folder")
    if free < 1:
        return Finding("bad", "disk", f"{text}. Free some, or set --out on another disk")
    return Finding("ok" if free >= DISK else "warn", "disk", text)


def _packages() -> Iterator[Finding]:
    for name, install in OPTIONAL.items():
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("note", name, f"absent (optional); {install}")


def _environment() -> Iterator[Finding]:
    true = ("1", "true", "yes", "on")
    offline = [name for name in OFFLINE if os.environ.get(name, "0").lower() in true]
    if offline:
        text = f"{', '.join(offline)} set: models of the hub only from its cache"
        yield Finding("note", "downloads", text)
    else:
        yield Finding("ok", "downloads", "allowed")
    if ours := sorted(name for name in os.environ if name.startswith("PATHLINE_")):
        text = f"{', '.join(ours)} set, but pathline reads no such variables. Use key=value"
        yield Finding("warn", "environment", text)
