"""The front door: light, helpful, exact in its exit codes."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch
from cyclopts import App

from pathline import cli
from pathline.errors import REFUSED, PathlineError, is_out_of_memory

ALL = [(name,) for name, *_ in cli.COMMANDS] + [
    (group, name) for group, (_, *commands) in cli.GROUPS.items() for name, *_ in commands
]
PLACES = [place for _, place, _ in cli.COMMANDS] + [
    place for _, *commands in cli.GROUPS.values() for _, place, _ in commands
]
CPU_FULL = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 400000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
HEAVY = ("torch", "numpy", "datasets", "yaml", "sklearn", "rich.markdown")


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy():
    done = python(
        "import sys; from pathline.cli import main; code = main(['--help'])\n"
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    assert done.stdout.splitlines()[-1] == "loaded [] 0", done.stdout + done.stderr
    assert "quickstart" in done.stdout


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_of_a_command(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: pathline {' '.join(command)}")
    for noise in ("--empty", "--no-debug", "default: ()", "default: None", "default: False"):
        assert noise not in text
    assert "--no-" not in text or command == ("caption",)  # its --resume is on by default


def test_help_keeps_defaults_that_say_something(capsys):
    cli.main(["generate", "--help"])
    assert "[default: 0.6]" in capsys.readouterr().out
    cli.main(["caption", "--help"])
    text = capsys.readouterr().out
    assert "--no-resume" in text
    assert "Qwen/Qwen3-VL" in text


def test_help_of_all_commands_imports_nothing_heavy():
    done = python(
        "import sys\n"
        "from pathline.cli import main\n"
        f"codes = {{main([*command, '--help']) for command in {ALL}}}\n"
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules], codes)"
    )
    assert done.stdout.splitlines()[-1] == "loaded [] {0}", done.stdout + done.stderr


@pytest.mark.parametrize("place", PLACES)
def test_an_outline_is_the_command_without_its_imports(place):
    module, name = place.split(":")
    command = getattr(importlib.import_module(f"pathline.recipes.{module}"), name)
    outlined = cli.outline(place)
    assert inspect.signature(outlined) == inspect.signature(command)
    assert (outlined.__doc__ or "").split() == (command.__doc__ or "").split()


def test_memory_that_ran_out_is_recognised_and_other_faults_are_not():
    huge = 1 << 55
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        torch.empty(huge)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    for other in (RuntimeError("shapes differ"), ValueError("out of memory"), OSError(28, "full")):
        assert not is_out_of_memory(other)


def test_a_typo_imports_nothing_heavy():
    done = python(
        "import sys; from pathline.cli import main; code = main(['trian'])\n"
        f"print('loaded', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    assert done.stdout.splitlines()[-1] == "loaded [] 2"
    assert "Did you mean 'train'?" in done.stderr


def test_settings_import_no_torch():
    done = python("import sys, pathline.config.resolve; print('torch' in sys.modules)")
    assert done.stdout == "False\n"


def test_help_is_quick():
    """In processor seconds, so that a busy machine does not fail it."""
    resource = pytest.importorskip("resource")

    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def once():
        before = spent()
        subprocess.run(
            [sys.executable, "-m", "pathline", "--help"], capture_output=True, check=True
        )
        return spent() - before

    assert min(once() for _ in range(5)) <= 0.5


def test_settings_of_a_typo_are_told(capsys):
    assert cli.main(["config", "show", "digits", "train.updats=3"]) == cli.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pathline: command line: train.updats is not a setting. Did you")
    assert "Traceback" not in captured.err


def test_show_names_sources(capsys):
    assert cli.main(["config", "show", "digits", "train.updates=1e1", "optimizer.lr=1e-3"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "updates: 10 # command line" in lines
    assert "lr: 0.001 # command line" in lines
    assert "size: 8 # preset digits" in lines
    assert "mse: 1.0 # default" in lines


def test_shown_settings_can_be_run_again(capsys, tmp_path):
    cli.main(["config", "show", "quickstart"])
    first = capsys.readouterr().out
    path = tmp_path / "again.yaml"
    path.write_text(first)
    assert cli.main(["config", "show", str(path)]) == 0
    second = capsys.readouterr().out
    assert [line.partition("  #")[0] for line in second.splitlines()] == [
        line.partition("  #")[0] for line in first.splitlines()
    ]


def test_wrong_rows_and_options_are_told(capsys):
    typed = [
        "config",
        "show",
        "digits",
        "sample.solver=huen",
        "optimizer.lrr=1",
        "backbone.depth=x",
    ]
    assert cli.main(typed) == cli.USAGE
    said = capsys.readouterr().err
    assert "3 problems" in said
    assert "Did you mean 'heun'?" in said
    assert "Did you mean 'lr'?" in said
    assert "backbone.depth=x is wrong because it must be a whole number" in said


def test_list(capsys):
    assert cli.main(["config", "list"]) == 0
    assert "cifar10-cpu" in capsys.readouterr().out
    assert cli.main(["config", "list", "solver"]) == 0
    assert "heun" in capsys.readouterr().out
    assert cli.main(["config", "list", "sovler"]) == cli.USAGE
    assert "Did you mean 'solver'?" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["data.source", "backbone", "times", "terms", "optimizer"])
def test_every_table_can_be_listed(place, capsys):
    assert cli.main(["config", "list", place]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trian"], "Did you mean 'train'? There are: quickstart, train"),
        (["config", "shwo"], "Did you mean 'show'? There are: show, list"),
        (["frobnicate"], "no command 'pathline frobnicate'. There are"),
        (["--hlep"], "Did you mean '--help'?"),
        (["config", "show", "digits", "--confg", "x"], "Did you mean --config?"),
        (["config", "show", "digits", "--config", "no.yaml"], "There is no settings file no.yaml"),
        (["config", "show", "digts"], "Did you mean 'digits'?"),
        (["config", "list", "a", "b"], "b"),
    ],
)
def test_usage_errors(typed, said, capsys):
    assert cli.main(typed) == cli.USAGE
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split())
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("size 9 is no multiple of 2"), cli.USAGE, "size 9 is no multiple of 2"),
        (FileNotFoundError("There is no folder x."), cli.USAGE, "There is no folder x."),
        (OSError(28, "No space left on device", "a/b"), cli.USAGE, "a/b: No space left on device."),
        (PermissionError(13, "Permission denied", "x"), cli.USAGE, "x: Permission denied."),
        (ImportError("pip install 'pathline[bench]'"), cli.USAGE, "pip install"),
        (KeyboardInterrupt(), cli.INTERRUPTED, "Interrupted."),
        (PathlineError("the loss was nan", REFUSED), REFUSED, "the loss was nan"),
        (MemoryError(), cli.USAGE, "Out of memory: MemoryError"),
        (
            RuntimeError(CPU_FULL),
            cli.USAGE,
            "DefaultCPUAllocator: can't allocate memory: you tried",
        ),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), cli.USAGE, "train.accumulate"),
        (OSError(12, "Cannot allocate memory"), cli.USAGE, "train.batch"),
        (RuntimeError("shapes differ"), cli.FAILED, "RuntimeError: shapes differ (at test_cli.py:"),
    ],
)
def test_errors_of_a_command(error, code, said, monkeypatch, capsys):
    def command(*, debug: bool = False) -> int:
        del debug
        raise error

    _replace_app(monkeypatch, command)
    assert cli.main(["train"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert cli.main(["--debug", "train"]) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [["--debug", "train"], ["train", "--debug"]])
def test_debug_stands_anywhere(typed, monkeypatch):
    heard = []

    def command(*, debug: bool = False) -> int:
        heard.append(debug)
        return 3

    _replace_app(monkeypatch, command)
    assert cli.main(typed) == 3
    assert cli.main(["train"]) == 3
    assert heard == [True, False]


def test_a_reader_that_goes_away_is_no_error():
    command = f"(sleep 0.5; {sys.executable} -m pathline --help; echo code $? >&2) | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.stderr in ("code 0\n", "code 1\n")  # rich's own answer is 1


def test_doctor(capsys):
    assert cli.main(["doctor"]) in (0, 1)
    said = capsys.readouterr().out
    for what in ("python", "torch", "bf16", "GFLOP/s", "disk", "memory", "torchvision"):
        assert what in said


def _replace_app(monkeypatch, command):
    app = App(name="pathline")
    app.command(command, name="train")
    monkeypatch.setattr(cli, "app", app)
