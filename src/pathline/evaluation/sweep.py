"""What `pathline eval` was asked for: features with their options, and ways to draw."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from pathline.assemble import problems_of
from pathline.config.pick import Pick, bind
from pathline.config.resolve import read
from pathline.config.run import Sample
from pathline.config.values import read_scalar
from pathline.config.yaml_io import read_value
from pathline.runs import folder as runs
from pathline.tables import TABLES


class Way(NamedTuple):
    """One way to draw from a run."""

    setting: dict[str, str]  # axis of the sweep -> value, as it was typed
    sample: Sample
    ema: float | None


def is_feature(text: str) -> bool:
    return text.partition("=")[0].partition(".")[0] in TABLES["eval.feature"]


def features_of(names: Sequence[str], options: Sequence[str]) -> list[Pick]:
    """The features with their options; empty for the run's own."""
    found = {name: {} for name in names}
    for text in options:
        key, equals, value = text.partition("=")
        name, _, option = key.partition(".")
        if not equals or not option:
            raise ValueError(f"{text!r} is no option: write FEATURE.OPTION=VALUE.")
        found.setdefault(name, {})[option] = read_value(value)
    picks = [Pick(name, given) for name, given in found.items()]
    for pick in picks:
        bind(TABLES["eval.feature"], pick, "feature")
    return picks


def ways_of(opened: runs.Opened, sweep, flags: dict[str, Any], further: Sequence[str]) -> list[Way]:
    """Every combination of the sweep's axes, laid over the run's own sampling settings."""
    axes = _axes(sweep)
    if twice := [key for key in axes if flags.get(key) is not None]:
        raise ValueError(f"--{twice[0]} is an axis of the sweep too; give it once.")
    flags = {key: str(value) for key, value in flags.items() if value is not None}
    found = []
    for values in product(*axes.values()):
        setting = dict(zip(axes, values, strict=True))
        said = flags | setting
        ema = said.pop("ema", None)
        overrides = [f"sample.{text}" for text in further]
        overrides += [f"sample.{_key(key, value)}={value}" for key, value in said.items()]
        base = (opened.saved or opened.folder) / runs.SETTINGS
        sample = read(None, (), overrides, base=base, check=problems_of).run.sample
        found.append(Way(setting, sample, sample.ema if ema is None else _number("ema", ema)))
    return found


def _axes(sweep: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for text in sweep:
        key, _, values = text.partition("=")
        words = [word.strip() for word in values.split(",")]
        if not key or not all(words) or key in axes:
            raise ValueError(
                f"{text!r} is no axis of a sweep: write KEY=VALUE,VALUE,… for each key once, such "
                "as --sweep guidance=1,1.5,2 steps=4,8,20 (the run stands before --sweep)."
            )
        axes[key] = list(dict.fromkeys(words))
    return axes


def _key(key: str, value: str) -> str:
    """`guidance=2` means its scale, `guidance=interval` the row."""
    is_scale = key == "guidance" and not isinstance(read_scalar(value), str)
    return "guidance.scale" if is_scale else key


def _number(key: str, value: str) -> float:
    found = read_scalar(value)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"{key} wants a number, got {value!r}.")
    return float(found)
