"""README and docs: lines fit, links resolve, and every command shown is one that exists."""

import re
import shlex
from pathlib import Path

import pytest

from pathline.cli import COMMANDS, GROUPS
from pathline.config.resolve import PRESETS, read
from pathline.tables import TABLES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WIDTH = 110
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMES = {name for name, *_ in COMMANDS} | set(GROUPS)


def commands_of(text):
    """Every `pathline …` line of the code blocks, continued lines joined, comments cut."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))
            if line.startswith("pathline "):
                yield shlex.split(line)[1:]


def fault_of(words):
    """What is wrong with a command line, "" if nothing: its name, its preset, its settings."""
    if words[0] not in NAMES:
        return f"no command {words[0]}"
    if words[0] not in ("train", "preprocess", "bench", "data"):
        return ""
    plain = [w for w in words[1:] if "=" not in w and not w.startswith("-")]
    preset = next((w for w in plain if w in PRESETS), None)
    settings = [w for w in words[1:] if "=" in w and not w.startswith("-")]
    settings = [w for w in settings if not w.startswith("init=") and "…" not in w]
    if preset is None:
        preset = "."  # any folder stands for the one that the page names
        kind = "parquet" if any(w.endswith(".parquet") for w in plain) else "folder"
        settings += [f"data.source={kind}", "data.source.path=."]
    try:
        read(preset, (), settings, tables=TABLES)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_fit(page):
    lines = page.read_text("utf-8").splitlines()
    assert [(n, len(line)) for n, line in enumerate(lines, 1) if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    links = LINK.findall(page.read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    shown = list(commands_of(page.read_text("utf-8")))
    faults = [(shlex.join(words), fault) for words in shown if (fault := fault_of(words))]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("pathline trian digits", "no command"),
        ("pathline train digits train.updats=5", "updats"),
        ("pathline train digits size=medium", "size"),
        ("pathline train path/to/my/pictures data.source.captoin=title", "captoin"),
    ],
)
def test_a_wrong_command_is_noticed(line, fault):
    (words,) = commands_of(f"```console\n$ {line}  # a comment\n```\n")
    assert fault in fault_of(words)


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / link).resolve() for link in LINK.findall(PAGES[0].read_text("utf-8"))}
    pages = [page for page in PAGES[1:] if page.resolve() not in linked]
    assert [page.name for page in pages if page.parent.resolve() not in linked] == []


def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    """Block after block, as one program."""
    monkeypatch.chdir(tmp_path)
    page, names = (ROOT / "docs/python.md").read_text("utf-8"), {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert [image.size for image in names["images"]] == [(8, 8)] * 6
    assert names["preview"].t == 1
    assert {"three.png", "sheet.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "Did you mean 'steps'?" in capsys.readouterr().out
