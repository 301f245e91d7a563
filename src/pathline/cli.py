"""The command line: one line a command. Commands are named as strings and imported when used."""

import ast
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from inspect import BoundArguments
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter, Token, convert

from pathline.config.values import convert as as_kind
from pathline.config.values import is_number
from pathline.errors import DONE, FAILED, INTERRUPTED, USAGE, PathlineError, describe
from pathline.hints import nearest

FLAGS = ("--help", "-h", "--version", "--debug")

# name, where it is, help
COMMANDS = (
    ("quickstart", "quickstart:quickstart", "See it work: train on shapes and sample, in minutes."),
    ("train", "train:train", "Train a flow: a preset or your own folder of pictures."),
    ("generate", "generate:generate", "Generate images with a run."),
    ("eval", "eval:evaluate", "Measure a run, or a folder of images, against real ones."),
    ("logging", "logging:logging", "Look at runs in a browser: losses, gradients, grids."),
    ("runs", "runs:runs", "List runs and their state; compare their settings and losses."),
    ("ema", "ema:ema", "Rebuild an average of the weights of any length."),
    ("export", "export:export", "Write a run's weights as one file."),
    ("caption", "caption:caption", "Write captions of your pictures with a vision-language model."),
    ("preprocess", "preprocess:preprocess", "Encode pictures and captions once, into a cache."),
    ("data", "data:data", "Look at data: counts, sizes, captions, a contact sheet."),
    ("bench", "bench:bench", "Measure speed and memory of a preset on this machine."),
    ("doctor", "doctor:doctor", "Check this machine and say what to repair."),
)
GROUPS = {
    "codec": (
        "Train a codec; measure one on your pictures.",
        ("train", "codec.train:codec_train", "Train a small codec: a preset or your own pictures."),
        ("check", "codec.check:codec_check", "PSNR, statistics and equivariance on your pictures."),
    ),
    "config": (
        "Show settings and their sources; list the presets and the rows of tables.",
        ("show", "config:show", "Print the resolved settings as YAML, and who set each value."),
        ("list", "config:rows", "List the presets, or the rows and options of a table."),
    ),
}


def _build(load: Callable[[str], Any]) -> App:
    """The commands. load: place -> what cyclopts registers, a string or a function."""
    root = App(
        name="pathline",
        help="Make your own image generator: train a flow on pictures, sample images from it.",
        help_epilogue="--debug, anywhere on the line, shows the traceback of an error. "
        "`pathline COMMAND --help` explains a command.",
        help_format="plaintext",
        version_flags="--version",
        # no --no-debug and --empty-config; no "[default: ()]"
        default_parameter=Parameter(
            negative=(), show_default=_shown_default, converter=_read_option
        ),
    )

    def fill(group: App, commands: Sequence[tuple[str, str, str]]) -> App:
        for order, (name, place, text) in enumerate(commands):
            group.command(load(place), name=name, help=text, sort_key=order)
        return group

    for name, (text, *commands) in GROUPS.items():
        root.command(fill(App(name=name, help=text, sort_key=len(COMMANDS)), commands))
    return fill(root, COMMANDS)


def _describe_usage(error: CycloptsError) -> str:
    help_line = " ".join(["pathline", *(error.command_chain or ()), "--help"])
    return f"{error} `{help_line}` shows what there is."


def _shown_default(value: object) -> str | None:
    return None if value is None or value is False or value == () else str(value)


def _read_option(kind: Any, tokens: Sequence[Token]) -> Any:
    """A number stays text until `_read_numbers`; cyclopts would round 2.9 to a whole number."""
    return tokens[0].value if is_number(kind) else convert(kind, tokens)


def _read_numbers(bound: BoundArguments) -> None:
    """Read the numbers of a command as settings are read: whole ones unrounded, in their range."""
    wrong = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].annotation
        if isinstance(value, str) and is_number(kind):
            try:
                bound.arguments[name] = as_kind(value, kind)
            except ValueError as error:
                wrong.append(f"--{name.replace('_', '-')}={error}")
    if wrong:
        raise ValueError("\n".join(wrong))


app = _build(lambda place: f"pathline.recipes.{place}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0 done, 1 fault, 2 usage, 3 stopped on NaN, 130 interrupted."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    # Waiting threads sleep. By default they spin, which on a machine with other work costs three
    # quarters of the speed and on a quiet one gains a tenth (benchmarks/threads.py).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    # A file's name may hold bytes that are no text, and a terminal may lack a sign.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _print_warning if not debug else warnings.showwarning
    try:
        # Commands return their exit code; errors become one sentence and a code.
        return _run(tokens, debug)
    except CycloptsError as error:
        return _complain(_describe_usage(error), USAGE, debug)
    except KeyboardInterrupt:
        return _complain("Interrupted.", INTERRUPTED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone
        return DONE
    except Exception as error:
        if text := describe(error, tokens[0] if tokens else ""):
            return _complain(text, error.code if isinstance(error, PathlineError) else USAGE, debug)
        # Anything else is a mistake of ours: say where.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        text = f"{type(error).__name__}: {error} (at {where})"
        return _complain(f"{text}\nThis is a fault in pathline; --debug shows more.", FAILED, debug)


def _refuse_unknown(tokens: list[str], names: Sequence[str], before: str) -> None:
    """Name the nearest command; cyclopts would import every one of them to do so."""
    if not tokens or tokens[0] in (*names, *FLAGS):
        return
    is_option = tokens[0].startswith("-")
    choices = FLAGS if is_option else names
    raise ValueError(
        f"There is no {'option' if is_option else 'command'} '{before} {tokens[0]}'."
        f"{nearest(tokens[0], choices)} There are: {', '.join(choices)}."
    )


def _run(tokens: list[str], debug: bool) -> int:
    _refuse_unknown(tokens, [*(name for name, *_ in COMMANDS), *GROUPS], "pathline")
    if tokens and tokens[0] in GROUPS:
        names = [name for name, *_ in GROUPS[tokens[0]][1:]]
        _refuse_unknown(tokens[1:], names, f"pathline {tokens[0]}")
    # No command is imported for its help or for a typing error: torch alone would take seconds.
    outlines = _build(partial(_lazy_outline, tokens))
    command, bound, _ = outlines.parse_args(tokens, exit_on_error=False, print_error=False)
    _read_numbers(bound)
    if not {"--help", "-h", "--version"} & {*tokens} and tokens:
        _check_words(tokens, bound)
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        _read_numbers(bound)
    if debug and "debug" in bound.signature.parameters:
        bound.arguments["debug"] = True
    code = command(*bound.args, **bound.kwargs)
    sys.stdout.flush()
    return code if isinstance(code, int) else DONE


def _check_words(tokens: list[str], bound: BoundArguments) -> None:
    """Check the words that belong to no option, as far as that needs no import of the command."""
    command = " ".join(tokens[: 2 if tokens[0] in GROUPS else 1])
    words = [str(word) for word in bound.args if word is not None]
    kinds = [parameter.kind for parameter in bound.signature.parameters.values()]
    first = words.pop(0) if words and kinds[0] is kinds[0].POSITIONAL_ONLY else None
    import_module("pathline.arguments").check(command, first, words, bound.kwargs)


def _lazy_outline(tokens: list[str], place: str) -> Any:
    """The outline of the command on the line; the others stay strings, which nobody imports."""
    rows: dict[tuple[str, ...], str] = {(name,): at for name, at, _ in COMMANDS}
    for group, (_, *commands) in GROUPS.items():
        rows |= {(group, name): at for name, at, _ in commands}
    asked_for = rows.get(tuple(tokens[:1])) or rows.get(tuple(tokens[:2]))
    return outline(place) if place == asked_for else f"pathline.recipes.{place}"


def outline(place: str) -> Callable:
    """A command's signature and docstring, read from its file without importing what it needs."""
    module, name = place.split(":")
    file = Path(__file__).with_name("recipes").joinpath(*module.split(".")).with_suffix(".py")
    statements = ast.parse(file.read_text("utf-8")).body
    command = next(s for s in statements if isinstance(s, ast.FunctionDef) and s.name == name)
    signature = [part for part in (command.args, command.returns) if part]
    names = {n.id for part in signature for n in ast.walk(part) if isinstance(n, ast.Name)}
    # only the imports and constants that the signature names
    header = [s for s in statements if names & _names_set_by(s)]
    del command.body[1:]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module([*header, command], []), str(file), "exec"), namespace)
    function = namespace[name]
    # a description is one line to cyclopts, which wraps it
    function.__doc__ = re.sub(r"(?<=[^:\n])\n {8}(?=\S)", " ", function.__doc__)
    return function


def _names_set_by(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def _print_warning(message: Warning | str, *_: object) -> None:
    """A warning as one line that says what is wrong, without the line of code that raised it."""
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201


def _complain(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stdout.flush()
    print(f"pathline: {text}", file=sys.stderr)  # noqa: T201
    return code
