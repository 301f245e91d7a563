"""The house plan holds: arrows run down, siblings are strangers, the door is light."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]


def lint(folder, environment=None):
    return subprocess.run(
        [*LINT, "--no-cache"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_import_contracts():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_no_room_is_missing_from_the_contracts():
    """Rooms without an `__init__` would be skipped in silence."""
    folders = {path.parent for path in (ROOT / "src/pathline").rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("flow/paths.py", "import pathline.assemble", "Arrows run down BROKEN"),
        ("data/order.py", "import pathline.objectives.flow", "Arrows run down BROKEN"),
        ("nn/blocks.py", "import pathline.config.run", "reads settings BROKEN"),
        ("config/pick.py", "import torch", "no torch BROKEN"),
        ("newroom.py", "", "newroom"),  # a room that stands nowhere in the plan
    ],
)
def test_a_breach_is_noticed(file, line, broken, tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "src/pathline" / file, "a") as source:
        source.write(f"\n{line}\n")
    done = lint(tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path / "src")})
    assert done.returncode == 1
    assert broken in done.stdout
