"""The front door: one line a command. Commands are named as strings and imported only when used."""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from pathline.hints import nearest

FLAGS = ("--help", "-h", "--version", "--debug")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="pathline",
    help="Make your own image generator: train a flow on pictures, draw from it.",
    help_epilogue="--debug, anywhere on the line, shows the traceback of an error. "
    "`pathline COMMAND --help` explains a command.",
    help_format="plaintext",
    version_flags="--version",
    error_formatter=lambda error: f"pathline: {error}",
)

# name, where it is, help
COMMANDS = (
    ("quickstart", "quickstart:quickstart", "See it work: train on shapes and draw, in minutes."),
    ("train", "train:train", "Train a flow: a preset or your own folder of pictures."),
    ("generate", "generate:generate", "Draw pictures from a run."),
    ("eval", "eval:evaluate", "Measure a run, or a folder of pictures, against real ones."),
    ("logging", "logging:logging", "Look at runs in a browser: losses, gradients, grids."),
    ("ema", "ema:ema", "Rebuild an average of the weights of any length."),
    ("export", "export:export", "Write a run's weights as one file."),
    ("caption", "caption:caption", "Write captions of your pictures with a vision-language model."),
    ("preprocess", "preprocess:preprocess", "Encode pictures and captions once, into a cache."),
    ("data", "data:data", "Look at data: counts, sizes, captions, a contact sheet."),
    ("bench", "bench:bench", "Measure speed and memory of a preset on this machine."),
    ("doctor", "doctor:doctor", "Look at this machine and say what to mend."),
)
GROUPS = {
    "codec": (
        "Train a codec; measure one on your pictures.",
        ("train", "codec.train:codec_train", "Train a small codec: a preset or your own pictures."),
        ("check", "codec.check:codec_check", "PSNR, statistics and equivariance on your pictures."),
    ),
    "config": (
        "Show settings and their sources; list what there is.",
        ("show", "config:show", "Print the resolved settings as YAML, and who set each value."),
        ("list", "config:rows", "List the presets, or the rows and options of a table."),
    ),
}


def _fill(group: App, commands: Sequence[tuple[str, str, str]]) -> App:
    for order, (name, place, text) in enumerate(commands):
        group.command(f"pathline.recipes.{place}", name=name, help=text, sort_key=order)
    return group


_fill(app, COMMANDS)
for group, (about, *commands) in GROUPS.items():
    app.command(_fill(App(name=group, help=about, sort_key=len(COMMANDS)), commands))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0 done, 1 fault, 2 usage, 3 stopped on NaN, 130 interrupted."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        _refuse_unknown(tokens, [name for name, *_ in COMMANDS] + [*GROUPS], "pathline")
        if tokens and tokens[0] in GROUPS:
            known = [name for name, *_ in GROUPS[tokens[0]][1:]]
            _refuse_unknown(tokens[1:], known, f"pathline {tokens[0]}")
        return _run(tokens, debug)
    except CycloptsError:
        return USAGE  # already told
    except KeyboardInterrupt:
        return _complain("Interrupted.", INTERRUPTED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone
        return DONE
    except (ValueError, OSError, ImportError) as error:
        return _complain(_words(error), USAGE, debug)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        told = f"{type(error).__name__}: {error} (at {where})"
        return _complain(f"{told}\nThis is a fault in pathline; --debug shows more.", FAILED, debug)


def _refuse_unknown(tokens: list[str], known: list[str], before: str) -> None:
    """Name the nearest command; cyclopts would import every one of them to do so."""
    if not tokens or tokens[0] in (*known, *FLAGS):
        return
    is_option = tokens[0].startswith("-")
    hint = nearest(tokens[0], FLAGS if is_option else known)
    what = "option" if is_option else "command"
    raise ValueError(
        f"There is no {what} '{before} {tokens[0]}'.{hint} There are: "
        f"{', '.join(FLAGS if is_option else known)}."
    )


def _run(tokens: list[str], debug: bool) -> int:
    command, bound, _ = app.parse_args(tokens, exit_on_error=False)
    if debug and "debug" in bound.signature.parameters:
        bound.arguments["debug"] = True
    code = command(*bound.args, **bound.kwargs)
    sys.stdout.flush()
    return code if isinstance(code, int) else DONE


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    if isinstance(error, ImportError) and error.__cause__:  # cyclopts hides what is missing
        return f"{error.__cause__}. `pathline doctor` looks at what is installed."
    return str(error) or type(error).__name__


def _complain(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stdout.flush()
    print(f"pathline: {text}", file=sys.stderr)  # noqa: T201
    return code
