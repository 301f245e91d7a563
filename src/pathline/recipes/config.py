"""`pathline config`: the settings of a run with their sources; the presets; the rows of a table."""

from inspect import Parameter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pathline.config.layers import flatten, to_tree
from pathline.config.pick import function_of, options_of
from pathline.config.presets.table import PRESETS
from pathline.config.resolve import fill, read
from pathline.config.run import PLACES
from pathline.config.values import wanted
from pathline.config.yaml_io import scalar, write
from pathline.hints import listing, nearest
from pathline.tables import TABLES


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


def rows(table: str | None = None, /) -> int:
    """List the presets, or the rows and options of one table.

    Parameters
    ----------
    table
        Where the row is named in the settings: backbone, objective, terms, sample.solver, …
    """
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    if table is None:
        console.print(_presets())
        console.print(f"`pathline config list TABLE` lists its rows. Tables: {', '.join(PLACES)}.")
    else:
        console.print(_rows(_place(table)))
    return 0


def _grid(*columns: str) -> Grid:
    return Grid(*columns, box=SIMPLE_HEAD, pad_edge=False)


def _presets() -> Grid:
    grid = _grid("preset", "for", "expect", "time", "device")
    for name, run in PRESETS.items():
        about = run.about
        grid.add_row(name, about.purpose, about.expect, about.time, about.device)
    return grid


def _place(asked: str) -> str:
    """The table's full name; its last word will do ("solver" for "sample.solver")."""
    found = [place for place in PLACES if asked in (place, place.rpartition(".")[2])]
    if not found:
        words = [*PLACES, *(place.rpartition(".")[2] for place in PLACES)]
        raise ValueError(
            f"There is no table called {asked!r}.{nearest(asked, words)} "
            f"There are: {listing(PLACES)}."
        )
    return found[0]


def _rows(place: str) -> Grid:
    grid = _grid(PLACES[place], "option", "wants", "default", "what it is")
    for name, row in TABLES[place].items():
        told = (function_of(row).__doc__ or "").strip().partition("\n")[0]
        grid.add_row(name, "", "", "", Text(told))  # Text: brackets are shapes, not markup
        for key, option in options_of(row).items():
            needed = option.default is Parameter.empty
            default = "must be given" if needed else scalar(option.default)
            grid.add_row("", key, Text(wanted(option.kind)), Text(default), "")
    return grid
