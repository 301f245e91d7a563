"""The page on adding things keeps its word: its code runs, its rows work, its tables are whole."""

import json
import re
from pathlib import Path

import pytest

from pathline import cli
from pathline.config.resolve import read
from pathline.tables import TABLES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text("utf-8")
TINY = (
    *("train.updates=1", "backbone.width=16", "backbone.depth=1", "backbone.heads=2"),
    *("train.precision=fp32", "train.validate_every=0", "train.log_every=1", "sample.count=2"),
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def names():
    """All that the page's code defines, block after block, as one file."""
    found = {}
    for code in blocks("python"):
        exec(code, found)
    return found


@pytest.fixture
def added(names, monkeypatch):
    """The page's rows in their tables, at the names that it gives them."""
    for table, name in (("sample.solver", "ralston"), ("terms", "charbonnier")):
        assert f'"{name}": {name},' in PAGE
        assert name not in TABLES[table]
        monkeypatch.setitem(TABLES[table], name, names[name])


def test_the_tests_on_the_page_pass(names):
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_order_on_the_page_can_be_missed(names, monkeypatch):
    monkeypatch.setitem(names, "ralston", TABLES["sample.solver"]["euler"])
    with pytest.raises(AssertionError):
        names["test_ralston_is_of_second_order"]()


@pytest.mark.usefixtures("added")
def test_the_rows_on_the_page_train_and_draw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (settings,) = blocks("yaml")
    Path("mine.yaml").write_text(settings)
    assert "sample.solver=ralston" in PAGE
    line = ["train", "debug", *TINY, "sample.solver=ralston", "--config", "mine.yaml"]
    assert cli.main([*line, "--out", "run"]) == 0
    logged = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(logged["term/mse"] + 0.1 * logged["term/charbonnier"])
    assert "solver:\n    name: ralston" in Path("run/run.yaml").read_text()
    assert cli.main(["generate", "run", "--n", "1", "--solver", "ralston"]) == 0


def test_without_the_rows_the_same_settings_are_refused():
    with pytest.raises(ValueError, match="ralston") as error:
        read("debug", (), ["sample.solver=ralston", "terms.charbonnier=1"], tables=TABLES)
    assert "charbonnier" in str(error.value)


@pytest.mark.usefixtures("added")
def test_a_typo_in_a_new_row_or_its_options_gets_an_answer():
    wrong = ["sample.solver=ralson", "terms.charbonnier.epps=1"]
    with pytest.raises(ValueError, match="Did you mean 'ralston'") as error:
        read("debug", (), wrong, tables=TABLES)
    assert "Did you mean 'eps'" in str(error.value)


def test_every_table_is_on_the_page_and_every_file_is_there():
    kinds = re.search(r"## What goes where\n\n(.*?)\n\n", PAGE, re.DOTALL)
    assert kinds is not None
    lines = [[cell.strip() for cell in row.split("|")] for row in kinds[1].splitlines()[2:]]
    rows = {name for line in lines for name in re.findall(r"[A-Z]{4,}", line[3])}
    assert literals() <= rows
    for line in lines:
        (file,) = re.findall(r"`([^`]+)`", line[2])
        assert (ROOT / "src/pathline" / re.sub(r"<\w+>\.py", "", file)).exists()


def literals():
    """The names of the tables that `tables` joins."""
    text = (ROOT / "src/pathline/tables.py").read_text("utf-8")
    joined = text[text.index("\nTABLES") : text.index("\n}\n")]
    return set(re.findall(r"\b[A-Z]{4,}\b", joined)) - {"TABLES"}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((\.\./[^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_every_file_and_folder_of_the_package_is_in_the_list():
    source = Path(cli.__file__).parent
    files = [file.relative_to(source) for file in source.rglob("*.py")]
    names = {f.parts[0] if len(f.parts) == 1 else f"{f.parts[0]}/" for f in files}
    names -= {"__init__.py", "__main__.py"}
    shown = PAGE.partition("## Where things are")[2].partition("```\n\n")[0]
    assert [name for name in sorted(names) if name not in shown] == []
