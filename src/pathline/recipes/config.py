"""`pathline config`: the settings of a run with their sources; the presets; the rows of a table."""

from collections.abc import Sequence
from inspect import Parameter
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from pathline.codecs.own import NETWORKS
from pathline.config.codec_run import PLACES as CODEC_PLACES
from pathline.config.codec_run import CodecRun
from pathline.config.layers import flatten, to_tree
from pathline.config.pick import options_of
from pathline.config.reference import explain as meanings_of
from pathline.config.reference import (
    sections_of,
    settings_of,
    settings_page,
    summary,
    table_meanings,
)
from pathline.config.resolve import PRESETS, fill, read
from pathline.config.run import PLACES, Run
from pathline.config.values import describe_kind
from pathline.config.yaml_io import scalar, write
from pathline.console import open_console
from pathline.hints import listing, nearest
from pathline.tables import TABLES

TOP = "top"  # names the settings that stand in no section
INTRODUCTION = """# Settings

Every setting of a run: its key, meaning, type or range, and default. Generated from the code by
`pathline config list --markdown`; a test keeps this page equal to it.

Write settings as `key=value` on the command line or as YAML in a file (`--config FILE`). Later ones
win: defaults < suggested by the chosen rows < preset < files < command line.
`pathline config show PRESET key=value …` prints the resolved settings and where each comes from,
with `--explain` also what each means.
A *row* is one entry of a table, such as `backbone=dit` or `sample.solver=heun`; naming another row
drops the options of the former. `null` is no value. Wherever a number format is chosen, `fp32`,
`bf16` and `fp16` may be written as `float32`, `bfloat16` and `float16`.
"""


def show(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    explain: bool = False,
) -> int:
    """Print the resolved settings as YAML; the comment behind a value says where it comes from.

    Parameters
    ----------
    what:
        A preset, or a folder or file of pictures.
    overrides:
        Settings as key=value.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    explain:
        Say behind each value what the setting means, too.
    """
    settings = read(what, config, overrides, tables=TABLES)
    tree = to_tree(fill(settings.run, TABLES))
    notes = {key: settings.origins.get(key, "default") for key in flatten(tree)}
    if explain:
        meanings = meanings_of(Run, tree, PLACES, TABLES)
        notes = {key: f"{origin}: {meanings[key]}" for key, origin in notes.items()}
    print(write(tree, notes), end="")  # noqa: T201
    return 0


def rows(table: str | None = None, /, *, markdown: bool = False) -> int:
    """List the presets, the settings of a section, or the rows and options of a table.

    Parameters
    ----------
    table:
        A section (train, data, sample, eval, data.buckets, …), or where a row is named in the
        settings (backbone, objective, terms, sample.solver, …).
    markdown:
        Print every setting there is as Markdown: docs/settings.md.
    """
    if markdown:
        print(reference(), end="")  # noqa: T201
        return 0
    console = open_console(width=None if open_console().is_terminal else 160)
    if table is None:
        console.print(_presets())
        console.print(f"`pathline config list SECTION` explains its settings. {_sections()}")
        console.print(f"`pathline config list TABLE` lists its rows. Tables: {', '.join(PLACES)}.")
    else:
        name = _find(table)
        console.print(_rows(name) if name in PLACES else _settings(name))
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


def _sections() -> str:
    return f"Sections: {', '.join(sections_of(Run))}; `top` has those in none."


def _find(name: str) -> str:
    """A section or table by its full name or its last word ("solver" for "sample.solver")."""
    names = [*PLACES, *sections_of(Run), TOP]
    matching = [full for full in names if name in (full, full.rpartition(".")[2])]
    if not matching:
        words = [*names, *(full.rpartition(".")[2] for full in names)]
        raise ValueError(
            f"There is no section or table called {name!r}.{nearest(name, words)} "
            f"There are: {listing(names)}."
        )
    return matching[0]


def _settings(section: str) -> Grid:
    """The settings of a section, with what each wants, its default and its meaning."""
    grid = _grid("setting", "wants", "default", "what it is")
    record, prefix = (Run, "") if section == TOP else (sections_of(Run)[section], f"{section}.")
    for key, wants, default, meaning in settings_of(record):
        grid.add_row(f"{prefix}{key}", Text(wants), Text(default), Text(meaning))
    return grid


def _rows(place: str) -> Grid:
    grid = _grid(PLACES[place], "option", "wants", "default", "what it is")
    meanings = table_meanings(place, TABLES[place])
    for name, row in TABLES[place].items():
        grid.add_row(name, "", "", "", Text(summary(row)))  # Text: brackets are shapes, not markup
        for key, option in options_of(row).items():
            needed = option.default is Parameter.empty
            default = "must be given" if needed else scalar(option.default)
            grid.add_row(
                "", key, Text(describe_kind(option.kind)), Text(default), Text(meanings[name][key])
            )
    return grid
