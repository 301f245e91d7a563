"""The install lines: the lock as constraints, small for users; extras that errors name exist."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = dict(
    line.split("==")
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if "==" in line
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_page_installs_the_whole_lock():
    lines = [
        line
        for page in PAGES
        for line in page.read_text("utf-8").splitlines()
        if "requirements.lock" in line and "pip install" in line
    ]
    assert len(lines) >= 3
    assert [line for line in lines if "-c requirements.lock" not in line] == []


def test_the_lock_holds_every_dependency_at_a_version_that_fits():
    locked = {canonical(name): version for name, version in LOCK.items()}
    extras = [row for name in ("eval", "codecs", "text", "caption") for row in EXTRAS[name]]
    for text in (*PROJECT["dependencies"], *extras):
        needed = Requirement(text)
        assert locked[canonical(needed.name)] in needed.specifier


def test_a_user_gets_no_tool_of_developers():
    plain = {canonical(Requirement(text).name) for text in PROJECT["dependencies"]}
    tools = {canonical(Requirement(text).name) for text in EXTRAS["dev"]} - {"pathline"}
    assert plain & tools == set()


def test_every_extra_that_a_message_names_exists():
    text = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"pathline\[(\w+)\]", text))
    assert {"eval", "heic"} <= named <= set(EXTRAS)
