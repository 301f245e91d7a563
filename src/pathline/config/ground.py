"""What the layers of settings are laid over: a preset, a run.yaml, or your own pictures by size."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pathline.config.entries import COMMAND_LINE, keys_set, tree_of, well_placed
from pathline.config.layers import build, flatten, to_tree
from pathline.config.pick import Pick, pick
from pathline.config.values import Problem
from pathline.config.yaml_io import Entry, read_file
from pathline.files import why_missing
from pathline.hints import listing, nearest

YAML = (".yaml", ".yml")
SIZE = "size"  # the setting that chooses among the presets for own pictures
R = TypeVar("R")


@dataclass(frozen=True)
class Root(Generic[R]):
    """The record that settings are read into, its presets, and what finds wrong numbers in it."""

    record: type[R]
    presets: Mapping[str, R]
    problems: Callable[[R], list[Problem]]
    picks: Callable[[R], dict[str, Pick]]
    places: Mapping[str, str]  # where a Pick is -> what a row of its table is called
    optional: Container[str]  # places where `auto` leaves the choice to the data
    hint: str  # where every setting can be seen
    # The preset for a folder of your own pictures, by {size} where there are several.
    own_preset: str = "own"


@dataclass(frozen=True)
class Base(Generic[R]):
    """What the other layers are laid over."""

    run: R
    origins: dict[str, str]
    problems: list[Problem]


def size_of(layers: Iterable[Iterable[Entry]]) -> str | None:
    """The last size that these layers set; None for auto and for none."""
    sizes = [str(entry.value) for layer in layers for entry in layer if entry.key == SIZE]
    return next((size for size in reversed(sizes) if size != "auto"), None)


def size_problems(run: Any, ground: Any, what: str | None) -> Iterator[Problem]:
    """A size that chooses nothing, because `what` has its settings already.

    run: with all settings. ground: what they were laid over.
    """
    size = getattr(run, SIZE, "auto")
    if size not in ("auto", getattr(ground, SIZE, "auto")):
        yield Problem(
            SIZE,
            f"Choosing {size} is for a folder of your own pictures; {what or 'this run'} has all "
            "its settings already. Leave size out.",
        )


def ground_of(root: Root[Any], what: str | None, size: str | None) -> Base[Any]:
    """The preset, the run.yaml or the own pictures that `what` names."""
    presets = root.presets
    if what is None:
        return Base(root.record(), {}, [])
    # A preset wins over a folder of its name, which ./NAME names.
    if what in presets:
        return Base(presets[what], _changes(presets[what], f"preset {what}"), [])
    path = Path(what)
    if path.suffix in YAML:
        wrong: list[Problem] = []
        entries = [*well_placed(root.record, read_file(path), wrong)]
        run = build(root.record, tree_of(entries), wrong)
        return Base(run, {key: entry.origin for entry in entries for key in keys_set(entry)}, wrong)
    if path.exists():
        # Without a measurement, the size that every machine can train.
        names = [root.own_preset.format(size=name) for name in (size, "small")]
        preset = next(presets[name] for name in names if name in presets)
        data = replace(preset.data, source=pick("auto", path=what))
        typed = dict.fromkeys(("name", "data.source.name", "data.source.path"), COMMAND_LINE)
        run = replace(preset, name=_title(path), data=data)
        return Base(run, _changes(preset, f"preset {preset.name}") | typed, [])
    raise _unknown(what, presets)


def _unknown(what: str, presets: Iterable[str]) -> Exception:
    path = Path(what)
    if path.is_symlink() or any(above.is_file() for above in path.parents):
        return FileNotFoundError(why_missing(path))
    if len(path.parts) > 1 or path.suffix or what.startswith((".", "~")):
        return FileNotFoundError(
            f"There is no folder or file {what!r}. Give a folder of pictures, a file of them "
            f"(.tar, .parquet), or a preset: {listing(presets)}."
        )
    return ValueError(
        f"There is no preset called {what!r}, and no folder.{nearest(what, presets)} "
        f"There are: {listing(presets)}."
    )


def _title(path: Path) -> str:
    full = path.resolve()
    return (full.name if full.is_dir() else full.stem) or "own"


def _changes(run: Any, name: str) -> dict[str, str]:
    """The keys whose value a preset changes, as its doing."""
    before = flatten(to_tree(type(run)()))
    after = flatten(to_tree(run))
    return {k: name for k, v in after.items() if k not in before or before[k] != v}
