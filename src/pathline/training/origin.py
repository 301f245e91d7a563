"""Where a run comes from: its command, the versions of packages and the git commit."""

import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "pillow", "datasets", "safetensors", "scikit-learn", "scipy")


def origin() -> dict[str, Any]:
    """The command, the versions and the git commit, to repeat the run."""
    return {
        "command": sys.argv,
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in ("pathline", *PACKAGES)},
        "git": _git(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git() -> dict[str, Any] | None:
    """Commit and whether the tree was changed; None outside a checkout or without git."""
    package = Path(__file__).parent
    try:
        run = partial(subprocess.run, capture_output=True, text=True, encoding="utf-8", check=True)
        commit = run(["git", "-C", str(package), "rev-parse", "HEAD"])
        changed = run(["git", "-C", str(package), "status", "--porcelain"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(changed.stdout.strip())}
