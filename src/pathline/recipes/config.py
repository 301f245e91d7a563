"""`pathline config`: the settings of a run with their sources; the presets; the rows of a table."""

from inspect import Parameter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from pathline.codecs.own import NETWORKS
from pathline.config.codec_run import PLACES as CODEC_PLACES
from pathline.config.codec_run import CodecRun
from pathline.config.layers import flatten, to_tree
from pathline.config.pick import function_of, options_of
from pathline.config.reference import settings_page, table_meanings
from pathline.config.resolve import PRESETS, fill, read
from pathline.config.run import PLACES, Run
from pathline.config.values import describe_kind
from pathline.config.yaml_io import scalar, write
from pathline.console import open_console
from pathline.hints import listing, nearest
from pathline.tables import TABLES

INTRODUCTION = """# Settings

Every setting of a run: its key, meaning, type or range, and default. Generated from the code by
`pathline config list --markdown`; a test keeps this page equal to it.

Write settings as `key=value` on the command line or as YAML in a file (`--config FILE`). Later ones
win: defaults < suggested by the chosen rows < preset < files < command line.
`pathline config show PRESET key=value …` prints the resolved settings and where each comes from.
A *row* is one entry of a table, such as `backbone=dit` or `sample.solver=heun`; naming another row
drops the options of the former. `null` is no value. Wherever a number format is chosen, `fp32`,
`bf16` and `fp16` may be written as `float32`, `bfloat16` and `float16`.
"""


def show(what: str | None = None, /, *overrides: str, config: list[Path] | None = None) -> int:
    """Print the resolved settings as YAML; the comment behind a value says where it comes from.

    Parameters
    ----------
    what
        A preset, or a folder or file of pictures.
    overrides
        Settings as key=value.
    config
        A YAML file of settings; may be given more than once, later ones win.
    """
    settings = read(what, config or (), overrides, tables=TABLES)
    tree = to_tree(fill(settings.run, TABLES))
    notes = {key: settings.origins.get(key, "default") for key in flatten(tree)}
    print(write(tree, notes), end="")  # noqa: T201
    return 0


def rows(table: str | None = None, /, *, markdown: bool = False) -> int:
    """List the presets, or the rows and options of one table.

    Parameters
    ----------
    table
        Where the row is named in the settings: backbone, objective, terms, sample.solver, …
    markdown
        Print every setting there is as Markdown: docs/settings.md.
    """
    if markdown:
        print(reference(), end="")  # noqa: T201
        return 0
    console = open_console(width=None if open_console().is_terminal else 160)
    if table is None:
        console.print(_presets())
        console.print(f"`pathline config list TABLE` lists its rows. Tables: {', '.join(PLACES)}.")
    else:
        console.print(_rows(_place(table)))
    return 0


def reference() -> str:
    """The page docs/settings.md."""
    flow = settings_page(Run, PLACES, TABLES)
    tables = {**TABLES, "network": NETWORKS}
    networks = {"network": CODEC_PLACES["network"]}  # its other tables are those of `train`
    codec = settings_page(CodecRun, networks, tables)
    return f"{INTRODUCTION}\n## `pathline train`\n\n{flow}\n## `pathline codec train`\n\n{codec}"


def _grid(*columns: str) -> Grid:
    return Grid(*columns, box=SIMPLE_HEAD, pad_edge=False)


def _presets() -> Grid:
    grid = _grid("preset", "for", "expect", "time", "device")
    for name, run in PRESETS.items():
        about = run.about
        grid.add_row(name, about.purpose, about.expect, about.time, about.device)
    return grid


def _place(name: str) -> str:
    """The table's full name; its last word will do ("solver" for "sample.solver")."""
    places = [place for place in PLACES if name in (place, place.rpartition(".")[2])]
    if not places:
        words = [*PLACES, *(place.rpartition(".")[2] for place in PLACES)]
        raise ValueError(
            f"There is no table called {name!r}.{nearest(name, words)} "
            f"There are: {listing(PLACES)}."
        )
    return places[0]


def _rows(place: str) -> Grid:
    grid = _grid(PLACES[place], "option", "wants", "default", "what it is")
    meanings = table_meanings(place, TABLES[place])
    for name, row in TABLES[place].items():
        summary = (function_of(row).__doc__ or "").strip().partition("\n")[0]
        grid.add_row(name, "", "", "", Text(summary))  # Text: brackets are shapes, not markup
        for key, option in options_of(row).items():
            needed = option.default is Parameter.empty
            default = "must be given" if needed else scalar(option.default)
            grid.add_row(
                "", key, Text(describe_kind(option.kind)), Text(default), Text(meanings[name][key])
            )
    return grid
