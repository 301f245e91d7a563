"""A stranger's first hour, as typed: 40 commands and 24 mistakes, each with its answer.

The commands of a file run in order in one folder, as own processes. `transcript.txt` in that folder
has all that was printed, for reading by eye: pytest --basetemp=/tmp/journey -m slow tests/journeys
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SMALL = """
train: {updates: 4, batch: 4, precision: fp32, sample_every: 2, validate_every: 2, log_every: 2}
data: {size: 16}
backbone: {name: dit, width: 32, depth: 1, heads: 2, patch: 4}
sample: {steps: 2, count: 4}
"""


def steps_of(name):
    """Commands, exit codes and phrases: every command line is followed by its answer's line."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for command, answer in zip(lines[::2], lines[1::2], strict=True):
        code, _, phrase = answer.partition(" ")
        yield pytest.param(command.removeprefix("$ "), int(code), phrase, id=command[2:70])


def draw(file, colour, number):
    page = Image.new("RGB", (40, 40), "white")
    ImageDraw.Draw(page).ellipse([5 + number % 5, 5, 30, 30 + number % 5], fill=colour)
    page.save(file)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with pictures of three kinds, a settings file and prompts."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("captioned", "classes/red", "classes/blue", "my pictures [2]", "empty"):
        (home / folder).mkdir(parents=True)
    for colour in ("red", "blue"):
        for number in range(12):
            name = f"{colour}{number}"
            draw(home / "captioned" / f"{name}.png", colour, number)
            caption = home / "captioned" / f"{name}.txt"
            caption.write_text(f"a {colour} circle", encoding="utf-8")
            draw(home / "classes" / colour / f"{number}.png", colour, number)
            draw(home / "my pictures [2]" / f"{name}.png", colour, number)
    (home / "small.yaml").write_text(SMALL, encoding="utf-8")
    (home / "prompts.txt").write_bytes(b"\xef\xbb\xbf# two\r\na red circle\r\n\r\na blue square")
    (home / "latin.txt").write_bytes("a red circle\na café".encode("latin-1"))
    return home


@pytest.mark.parametrize(
    ("line", "code", "phrase"), [*steps_of("commands.txt"), *steps_of("mistakes.txt")]
)
def test_each_command_answers(home, line, code, phrase):
    words = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "pathline", *words],
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )
    with (home / "transcript.txt").open("a", encoding="utf-8") as file:
        file.write(f"$ {line}\n{done.stdout}-> {done.returncode}\n\n")
    assert "Traceback" not in done.stdout
    assert phrase in done.stdout, done.stdout
    assert done.returncode == code, done.stdout
