"""One progress bar for all commands, and lines that are printed as they are."""

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pathline import console as console_module
from pathline.console import open_console, print_table, progress, say_on, tracked
from pathline.hints import listing, nearest


def plain():
    return Console(file=io.StringIO(), width=40)


def text_of(console):
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["[/b].png", "[red]x.png", "a" * 90, ":smile:.png"])
def test_a_line_is_printed_as_it_is(name):
    console = plain()
    say_on(console)(f"unreadable: {name}")
    assert text_of(console) == f"unreadable: {name}\n"


def test_open_console_reads_no_markup(capsys):
    open_console().print("[red]x.png " + "a" * 200)
    assert capsys.readouterr().out == "[red]x.png " + "a" * 200 + "\n"


def test_every_console_is_opened_plain():
    """A console of rich's own would read `[/b]` in a file name as markup, and crash on it."""
    files = Path(console_module.__file__).parent.rglob("*.py")
    texts = {file.name: file.read_text("utf-8") for file in files}
    made = {name for name, text in texts.items() if re.search(r"(?<![\w])Console\(", text)}
    assert made == {"console.py"}
    assert not [name for name, text in texts.items() if re.search(r"\[/?(red|bold|dim)\]", text)]


def test_a_table_on_an_open_console_reads_no_markup(capsys):
    table = Table("[/b]")
    table.add_row("[red]cat")
    open_console(width=40).print(table)
    assert {"[/b]", "[red]cat"} <= set(capsys.readouterr().out.split())


def test_plain_lines_come_in_intervals(monkeypatch):
    console, clock = plain(), iter([0.0, 5.0, 10.5, 12.0, 21.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(console) as tick:
        for done in (0, 50, 105, 120, 210):
            tick("encoding", done, 310, note="3 left out")
    assert text_of(console).splitlines() == [
        "encoding 50/310  10.0/s  about 26 s left  3 left out",
        "encoding 210/310  10.0/s  about 10 s left  3 left out",
    ]


def test_a_resumed_task_measures_its_own_speed(monkeypatch):
    console, clock = plain(), iter([0.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress(console) as tick:
        tick("training", 1000, 1100)
        tick("training", 1020, 1100)
    assert "1020/1100  1.0/s  about 80 s left" in text_of(console)


def test_a_bar_on_a_terminal_reads_no_markup():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    assert list(tracked([1, 2, 3], "reading [/b]", console)) == [1, 2, 3]
    assert "reading [/b]" in text_of(console)
    assert "3/3" in text_of(console)


def test_interval_is_what_users_wait_for_a_sign_of_life():
    assert console_module.INTERVAL <= 10


def test_hints():
    assert nearest("unipc", ["euler", "unipc2"]) == " Did you mean 'unipc2'?"
    assert nearest("zzz", ["euler"]) == ""
    assert (listing(["b", "a"]), listing([])) == ("a, b", "none")


def test_a_table_breaks_no_word_and_no_number_on_a_narrow_terminal():
    file = io.StringIO()
    table = Table("adherence held out", "kid", "path")
    table.add_row("0.3194", "1.001e+04", "runs/a-long-name/pictures")
    print_table(open_console(width=20, file=file), table)
    for word in ("adherence", "1.001e+04", "runs/a-long-name/pictures"):
        assert word in file.getvalue()
