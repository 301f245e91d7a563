"""Results of `pathline eval`: tables on the screen, numbered files that overwrite nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pathline.evaluation.plots import Spot, curves
from pathline.evaluation.score import LOWER

SHOWN = ("frechet", "kid", "precision", "recall", "coverage", "diversity")  # first, in a sweep
UNSHOWN = (
    *("density", "diversity_real", "inception_score", "nearest_ratio"),
    *("exact held out", "exact swapped"),
)
MEANINGS = {
    "nearest_ratio": "distance to the nearest training picture over that of held-out ones; "
    "about 1 is good, towards 0 are copies",
    "told_apart": "pictures that fit their own prompt better than the one with places swapped",
}


def tell(
    found: Sequence[dict[str, Any]], out: Path | None, console: Console, *, as_json: bool
) -> None:
    """Print the results, and write them where `out` is given: JSON, and curves for a sweep."""
    is_sweep = len(found) > 1
    if as_json:
        print(json.dumps({"results": found}, indent=1))  # noqa: T201
    elif is_sweep:
        _tell_sweep(found, console)
    else:
        _tell_one(found[0], console)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    file = write(out, "sweep" if is_sweep else "eval", found)
    console.print(f"written: {file}", soft_wrap=True, highlight=False)
    if is_sweep:
        _plot(found, file, console)


def write(out: Path, stem: str, found: Sequence[dict[str, Any]]) -> Path:
    """The results as the next free file STEM-0001.json, …"""
    taken = [int(path.stem[-4:]) for path in out.glob(f"{stem}-[0-9][0-9][0-9][0-9].json")]
    file = out / f"{stem}-{max(taken, default=0) + 1:04d}.json"
    with file.open("x") as stream:
        json.dump({"results": found}, stream, indent=1)
    return file


def _plot(found: Sequence[dict[str, Any]], file: Path, console: Console) -> None:
    for at, feature in enumerate(found[0]["features"]):
        spots = [Spot(one["setting"], _scores(one, at)) for one in found]
        metrics = [m for m in _columns(found, at) if any(m in spot.scores for spot in spots)]
        of = f"-{feature['feature']}" if len(found[0]["features"]) > 1 else ""
        picture = file.with_name(f"{file.stem}{of}.png")
        title = f"{found[0]['what']}: {_how(found[0])}; {feature['feature']}"
        try:
            curves(spots, metrics, _real(found[0], at), title, picture)
        except ImportError as error:
            console.print(f"no curves: {error}", soft_wrap=True, markup=False)
            return
        console.print(f"curves: {picture}", soft_wrap=True, highlight=False)


def _scores(one: Mapping[str, Any], at: int) -> dict[str, float]:
    """All that a table or a curve may show of a feature, by name."""
    return one["features"][at]["scores"] | _adherence(one, "drawn")


def _real(one: Mapping[str, Any], at: int) -> dict[str, float]:
    """What real pictures score."""
    feature = one["features"][at]
    found, scores = dict(feature["baseline"]), feature["scores"]
    found |= {k: scores[f"{k}_real"] for k in scores if f"{k}_real" in scores}
    return found | _adherence(one, "ceiling")


def _adherence(one: Mapping[str, Any], whose: str) -> dict[str, float]:
    """Shares of right atoms and right scenes by split, of the drawn or of the real scenes."""
    found = {}
    for split, scores in one.get("adherence", {}).items():
        of = "" if split == "seen" else f" {split}".replace("_", " ")
        found |= {f"adherence{of}": scores[whose]["mean"], f"exact{of}": scores[whose]["exact"]}
    return found


def _columns(found: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    names = dict.fromkeys(name for one in found for name in _scores(one, at))
    first = [found[0].get("ranked_by", ""), *SHOWN]
    rest = [name for name in names if name not in UNSHOWN]
    return [name for name in dict.fromkeys([*first, *rest]) if name in names]


def _how(one: Mapping[str, Any]) -> str:
    """n, seed and, for a run, everything that pictures were drawn with but the sweep's axes."""
    parts = [f"n {one['n']}", f"seed {one['seed']}"]
    if "steps" in one:
        guidance = " ".join(f"{value}" for value in one["guidance"].values())
        drawn = {
            "weights": one["weights"],
            "solver": one["solver"],
            "steps": f"{one['steps']} steps",
            "grid": f"{one['grid']} grid",
            "guidance": f"guidance {guidance}",
        }
        parts += [text for name, text in drawn.items() if name not in one["setting"]]
        parts.insert(0, one["checkpoint"])
    return ", ".join(parts)


def _tell_one(one: Mapping[str, Any], console: Console) -> None:
    say = console.print
    say(f"{one['what']}: {_how(one)}", soft_wrap=True, highlight=False)
    say(f"real pictures: {one['reference']}", soft_wrap=True, highlight=False)
    for at, feature in enumerate(one["features"]):
        say(_feature_table(feature, _real(one, at)))
        if feature["note"]:
            say(f"{feature['feature']}: {feature['note']}", soft_wrap=True, highlight=False)
    if "adherence" in one:
        say(_adherence_table(one["adherence"]))
        told = one["adherence"]["swapped"]["told_apart"]
        say(f"told apart {told:.3f}: {MEANINGS['told_apart']}", soft_wrap=True, highlight=False)
    _caution([one], console)


def _feature_table(feature: Mapping[str, Any], real: Mapping[str, float]) -> Table:
    """One row a metric: drawn pictures against real ones, and real against real."""
    heads = [feature["feature"], f"against {feature['reference_n']} real"]
    columns = [feature["scores"]]
    if "held_out" in feature:
        heads.append(f"against {feature['held_out_n']} held out")
        columns.append(feature["held_out"])
    heads.append(f"real against real, {feature['baseline_n']} each")
    columns.append(real)
    table = Table(*heads)
    for name in feature["scores"]:
        if name != "diversity_real":
            table.add_row(name, *(_number(column.get(name)) for column in columns))
    return table


def _adherence_table(adherence: Mapping[str, Any]) -> Table:
    table = Table("prompts", "n", "atoms right", "geometric", "whole scene", "detector's ceiling")
    for split, scores in adherence.items():
        drawn, real = scores["drawn"], scores["ceiling"]
        numbers = [f"{drawn[key]:.3f}" for key in ("mean", "geometric", "exact")]
        ceiling = f"{real['mean']:.3f} / {real['geometric']:.3f} / {real['exact']:.3f}"
        table.add_row(split.replace("_", " "), str(drawn["n"]), *numbers, ceiling)
    return table


def _tell_sweep(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    first = found[0]
    console.print(f"{first['what']}: {_how(first)}", soft_wrap=True, highlight=False)
    console.print(f"real pictures: {first['reference']}", soft_wrap=True, highlight=False)
    for at, feature in enumerate(first["features"]):
        names = _columns(found, at)
        table = Table(*first["setting"], title=feature["feature"], box=SIMPLE_HEAD, pad_edge=False)
        for name in names:
            table.add_column(name, overflow="fold")
        for one in found:
            scores = _scores(one, at)
            table.add_row(*one["setting"].values(), *(_number(scores.get(m)) for m in names))
        real = _real(first, at)
        blank = [""] * (len(first["setting"]) - 1)
        table.add_section()
        table.add_row("real", *blank, *(_number(real.get(m)) for m in names))
        console.print(table)
        console.print(f"real: two sets of {feature['baseline_n']} real pictures", highlight=False)
        _tell_best(found, at, console)
    _caution(found, console)


def _tell_best(found: Sequence[Mapping[str, Any]], at: int, console: Console) -> None:
    metric = found[0]["ranked_by"]
    known = [one for one in found if metric in _scores(one, at)]
    if not known:
        return
    choose = min if metric in LOWER else max
    best = choose(known, key=lambda one: _scores(one, at)[metric])
    setting = " ".join(f"{key}={value}" for key, value in best["setting"].items())
    console.print(f"best {metric}: {setting}", highlight=False)


def _caution(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    said = [text for one in found for each in one["features"] for text in each["cautions"]]
    if any("nearest_ratio" in each["scores"] for one in found for each in one["features"]):
        said.append(f"nearest_ratio: {MEANINGS['nearest_ratio']}")
    for text in dict.fromkeys(said):
        console.print(f"note: {text}", soft_wrap=True, highlight=False, markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
