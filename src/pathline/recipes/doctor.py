"""`pathline doctor`: what this machine has, and what to do where something is missing."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Literal, NamedTuple

import torch

GIB = 1 << 30
OPTIONAL = {
    "diffusers": "pip install 'pathline[codecs]'",
    "matplotlib": "pip install 'pathline[bench]'",
    "pytest": "pip install 'pathline[dev]'",
}
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Finding(NamedTuple):
    """One line of the report; "note": nothing to mend, "warn": a limit, "bad": to be mended."""

    state: Literal["ok", "note", "warn", "bad"]
    what: str
    told: str


def doctor() -> int:
    """Look at Python, torch, devices, speed, disk and packages; 1 if something must be mended."""
    bad = 0
    for finding in _findings():
        bad += finding.state == "bad"
        print(f"{finding.state:>4}  {finding.what:<14} {finding.told}", flush=True)  # noqa: T201
    print("Everything that must work does." if not bad else f"{bad} to mend.")  # noqa: T201
    return 1 if bad else 0


def _findings() -> Iterator[Finding]:
    yield Finding("ok", "python", sys.version.split()[0])
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield from _vision()
    yield from _devices()
    yield _bf16()
    yield _rates()
    yield _memory()
    yield _disk(Path.cwd())
    yield from _packages()
    yield from _environment()


def _vision() -> Iterator[Finding]:
    """A torchvision of another build breaks transformers and diffusers at import."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding("ok", "torchvision", "absent, as it should be: pathline does without")
        return
    try:
        importlib.import_module("torchvision")
        yield Finding("note", "torchvision", "present and loads; pathline does without")
    except Exception as error:
        told = f"present but broken ({error}); run: pip uninstall torchvision"
        yield Finding("bad", "torchvision", told)


def _devices() -> Iterator[Finding]:
    yield Finding("ok", "cpu", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index}", f"{facts.name}, {facts.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "available")
    elif torch.cuda.device_count() == 0:
        yield Finding("note", "gpu", "none found; training runs on the CPU (--device cpu)")


def cpu_flags(text: str) -> set[str]:
    """The bf16 instruction sets named in a /proc/cpuinfo."""
    words = set(text.split())
    return words & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


def _bf16() -> Finding:
    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported()
        told = "supported by the GPU" if able else "not supported; use precision fp16"
        return Finding("ok" if able else "warn", "bf16", told)
    info = Path("/proc/cpuinfo")
    found = cpu_flags(info.read_text()) if info.is_file() else set()
    if found:
        return Finding("ok", "bf16", f"the CPU has {', '.join(sorted(found))}")
    return Finding("note", "bf16", "no instructions for it found; fp32 will be faster here")


def rate(dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Matrix products of size × size in GFLOP/s, the best of some."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(size, size, dtype=dtype, device=device)
    best, end = float("inf"), perf_counter() + seconds
    while perf_counter() < end:
        start = perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, perf_counter() - start)
    return 2 * size**3 / best / 1e9


def _rates() -> Finding:
    fp32, bf16 = rate(torch.float32), rate(torch.bfloat16)
    ratio = f"bf16 is {bf16 / fp32:.1f}× fp32"
    return Finding("ok", "matrix product", f"fp32 {fp32:.0f}, bf16 {bf16:.0f} GFLOP/s ({ratio})")


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    except (ValueError, OSError, AttributeError):  # a system that cannot say
        return Finding("note", "memory", "unknown on this system")
    told = f"{size:.0f} GiB"
    return (
        Finding("ok", "memory", told)
        if size >= 4
        else Finding("warn", "memory", f"{told}; 4 wanted")
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    told = f"{free:.0f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("bad", "disk", f"{folder} cannot be written; give --out or change folder")
    if free < 1:
        return Finding("bad", "disk", f"{told}; free some, or give --out on another disk")
    return Finding("ok" if free >= 5 else "warn", "disk", told)


def _packages() -> Iterator[Finding]:
    for name, line in OPTIONAL.items():
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("note", name, f"absent (optional); {line}")


def _environment() -> Iterator[Finding]:
    offline = [
        name for name in OFFLINE if os.environ.get(name, "0").lower() in ("1", "true", "yes", "on")
    ]
    told = f"{', '.join(offline)} set: hub names work only from the cache" if offline else "allowed"
    yield Finding("note" if offline else "ok", "downloads", told)
    ours = sorted(name for name in os.environ if name.startswith("PATHLINE_"))
    if ours:
        told = f"{', '.join(ours)} set, but pathline reads no such variables; use key=value"
        yield Finding("warn", "environment", told)
