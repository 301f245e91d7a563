"""From what a person typed to a Run.

Later ones win: defaults < suggested by the chosen rows < preset < files < key=value < flags.
"""

from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pathline.config.entries import (
    keys_set,
    read_override,
    report,
    tree_of,
    well_placed,
)
from pathline.config.ground import SIZE, Base, Root, ground_of, size_of, size_problems
from pathline.config.layers import (
    Tree,
    build,
    flatten,
    is_in,
    merge,
    nest,
    put,
    to_tree,
)
from pathline.config.pick import Table, options_of
from pathline.config.pick import problems as wrong_in
from pathline.config.presets.latents import LATENT
from pathline.config.presets.methods import methods
from pathline.config.presets.own_pictures import OWN_PICTURES
from pathline.config.presets.pixels import PIXEL
from pathline.config.run import AUTO, PLACES, Run, picks_of, problems
from pathline.config.values import Problem, convert
from pathline.config.yaml_io import Entry, read_file

# Every preset of `pathline train`, by name; those of other methods change one of the former.
PRESETS = {run.name: run for run in (*PIXEL, *OWN_PICTURES, *LATENT)}
PRESETS |= {run.name: run for run in methods(PRESETS)}
SAVED = "settings of the run"
R = TypeVar("R")


RUN = Root(
    Run,
    PRESETS,
    problems,
    picks_of,
    PLACES,
    AUTO,
    "`pathline config show PRESET` prints every setting there is.",
    own_preset="own-{size}",
)


class Settings(NamedTuple):
    """A resolved run and where each of its values came from."""

    run: Any  # of the root's record: a Run, unless another root was asked for
    tree: dict[str, Any]  # of `run`, as it is written to YAML
    origins: dict[str, str]  # dotted key -> "default", "preset digits", "mine.yaml:3", …


def read(
    what: str | None = None,
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    base: Path | Run | None = None,
    fitted: Sequence[Entry] = (),
    tables: Mapping[str, Table] | None = None,
) -> Settings:
    """Resolve a run of a flow; see `read_as`."""
    return read_as(RUN, what, files, overrides, flags, base=base, fitted=fitted, tables=tables)


def read_as(
    root: Root[R],
    what: str | None = None,
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    base: Path | R | None = None,
    fitted: Sequence[Entry] = (),
    tables: Mapping[str, Table] | None = None,
) -> Settings:
    """Resolve a record of settings.

    what: a preset, a folder or file of images, or a run.yaml; None: `base`, else defaults.
    files: YAML, later ones win. overrides: "key=value". flags: command-line flags, None where not
    given. fitted: what the data and the machine ask for, above a preset and below all that was set.
    tables: the rows by place; None: neither rows nor options are checked, none suggests
    anything. Raises ValueError that lists all problems with their origins, FileNotFoundError.
    """
    if what and "=" in what and what not in root.presets and not Path(what).exists():
        what, overrides = None, [what, *overrides]  # `pathline train train.updates=5`
    # Lowest layer: a preset, a file, an own folder, or the settings of a run.
    layers = [list(fitted), *(read_file(Path(file)) for file in files)]
    layers.append([entry for text in overrides for entry in read_override(text)])
    layers.append([Entry(k, v, f"--{k}") for k, v in (flags or {}).items() if v is not None])
    size = size_of(layers)
    if isinstance(base, root.record):
        ground = Base(base, dict.fromkeys(flatten(to_tree(base)), SAVED), [])
    else:
        ground = ground_of(root, what if what or base is None else str(base), size)

    tree, origins = to_tree(ground.run), dict(ground.origins)
    wrong = list(ground.problems)
    # Each layer wins over those before; the origin of every value is kept.
    for layer in layers:
        entries = [*well_placed(root.record, layer, wrong)]
        tree = merge(tree, tree_of(entries))
        origins |= {key: entry.origin for entry in entries for key in keys_set(entry)}
    tree |= {SIZE: size} if size else {}
    # An option that another row dropped has no origin any more.
    origins = {key: origin for key, origin in origins.items() if is_in(tree, key)}
    tables = tables or {}
    tree, origins = _suggested(root, tree, origins, tables)
    # All problems are reported together, with where each value came from.
    run = build(root.record, tree, wrong)
    wrong += root.problems(run)
    wrong += size_problems(run, ground.run, what)
    wrong += _row_problems(root, run, tables)
    if wrong:
        raise ValueError(report(wrong, origins, root.hint))
    tree = to_tree(run)
    return Settings(run, tree, {key: origins.get(key, "default") for key in flatten(tree)})


def _suggested(
    root: Root[Any], tree: Tree, origins: Mapping[str, str], tables: Mapping[str, Table]
) -> tuple[Tree, dict[str, str]]:
    """The tree and origins with what the chosen rows suggest for settings that nobody set.

    A suggestion for a row or a section takes its place whole, and only if nothing in it was set.
    """
    changed = dict(origins)
    leaves = [key for key in flatten(tree) if origins.get(key, "default") != "default"]
    for place, chosen in root.picks(build(root.record, tree, [])).items():
        row = tables.get(_table(place), {}).get(chosen.name)
        for key, value in getattr(row, "suggests", {}).items():
            if not any(leaf == key or leaf.startswith(f"{key}.") for leaf in leaves):
                tree = put(tree, key, value)
                entry = Entry(key, value, f"{place}={chosen.name}")
                changed |= dict.fromkeys(keys_set(entry), entry.origin)
    return tree, changed


def _row_problems(root: Root[Any], run: Any, tables: Mapping[str, Table]) -> Iterator[Problem]:
    """Every row that its table does not have, and every option that its row does not take."""
    for place, chosen in root.picks(run).items():
        table = _table(place)
        if table in tables and (chosen.name != "auto" or table not in root.optional):
            for option, message in wrong_in(tables[table], chosen, root.places[table]):
                yield Problem(f"{place}.{option}", message)


def _table(place: str) -> str:
    """The table of a place: loss terms share one."""
    return "terms" if place.startswith("terms.") else place


def fill(run: Run, tables: Mapping[str, Table]) -> Run:
    """The run with every option of its rows written out and converted; loss terms stay as given."""
    tree = to_tree(run)
    for place, chosen in picks_of(run).items():
        row = tables.get(place, {}).get(chosen.name)
        options = options_of(row) if row else {}
        values = {k: o.default for k, o in options.items() if o.default is not Parameter.empty}
        values |= {
            k: convert(v, options[k].kind) for k, v in chosen.options.items() if k in options
        }
        tree = merge(tree, nest(place, to_tree(values))) if values else tree
    return build(Run, tree)
