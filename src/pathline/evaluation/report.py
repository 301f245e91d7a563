"""Results of `pathline eval`: tables on the screen, numbered files that overwrite nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pathline.console import print_table
from pathline.evaluation.plots import Spot, curves
from pathline.evaluation.score import is_lower_better, metric_name
from pathline.files import write_whole

FIRST = ("kid", "precision", "recall", "coverage", "diversity")  # columns of a sweep, in order
HIDDEN = (
    *("density", "diversity_real", "inception_score", "nearest_ratio"),
    *("exact held out", "exact swapped"),
)
NEAREST_RATIO = (
    "nearest_ratio: distance to the nearest training image over that of held-out images; about 1 "
    "is good, towards 0 are copies"
)
ORDER_ACCURACY = "share of images that fit their own prompt better than with places swapped"


def print_results(
    results: Sequence[dict[str, Any]], out: Path | None, console: Console, *, as_json: bool
) -> None:
    """Print the results, and write them where `out` is set: JSON, and curves for a sweep."""
    is_sweep = len(results) > 1
    if as_json:
        print(json.dumps({"results": results}, indent=1))  # noqa: T201
    elif is_sweep:
        _print_sweep(results, console)
    else:
        _print_single(results[0], console)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    file = write_json(out, "sweep" if is_sweep else "eval", results)
    console.print(f"written: {file}")
    if is_sweep:
        _plot(results, file, console)


def write_json(out: Path, stem: str, results: Sequence[dict[str, Any]]) -> Path:
    """The results as the next unused file STEM-0001.json, …"""
    numbers = [int(path.stem[-4:]) for path in out.glob(f"{stem}-[0-9][0-9][0-9][0-9].json")]
    file = out / f"{stem}-{max(numbers, default=0) + 1:04d}.json"
    write_whole(file, json.dumps({"results": results}, indent=1))
    return file


def _plot(results: Sequence[dict[str, Any]], file: Path, console: Console) -> None:
    for at, feature in enumerate(results[0]["features"]):
        spots = [Spot(result["setting"], scores_of(result, at)) for result in results]
        metrics = _columns(results, at)
        suffix = f"-{feature['feature']}" if len(results[0]["features"]) > 1 else ""
        picture = file.with_name(f"{file.stem}{suffix}.png")
        title = f"{results[0]['what']}: {_describe(results[0])}; {feature['feature']}"
        try:
            curves(spots, metrics, baseline_of(results[0], at), title, picture)
        except ImportError as error:
            console.print(f"no curves: {error}")
            return
        console.print(f"curves: {picture}")


def scores_of(result: Mapping[str, Any], at: int) -> dict[str, float]:
    """All that a table or a curve may show of a feature, by name."""
    return result["features"][at]["scores"] | _adherence(result, "sampled")


def baseline_of(result: Mapping[str, Any], at: int) -> dict[str, float]:
    """Scores of real images."""
    feature = result["features"][at]
    baseline, scores = dict(feature["baseline"]), feature["scores"]
    baseline |= {k: scores[f"{k}_real"] for k in scores if f"{k}_real" in scores}
    return baseline | _adherence(result, "real")


def _adherence(result: Mapping[str, Any], images: str) -> dict[str, float]:
    """Attribute and whole-scene accuracy by split, of the sampled or of the real images."""
    shares = {}
    for split, scores in result.get("adherence", {}).items():
        of = "" if split == "seen" else f" {split}".replace("_", " ")
        shares |= {f"adherence{of}": scores[images]["mean"], f"exact{of}": scores[images]["exact"]}
    return shares


def _columns(results: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    """Names of the metrics that a sweep shows: the one it is ranked by, the usual ones, others."""
    frechet_name = results[0]["features"][at]["frechet_name"]
    names = dict.fromkeys(name for result in results for name in scores_of(result, at))
    first = [metric_name(results[0]["metric"], frechet_name), frechet_name, *FIRST]
    rest = [name for name in names if name not in HIDDEN]
    return [name for name in dict.fromkeys([*first, *rest]) if name in names]


def _describe(result: Mapping[str, Any]) -> str:
    """n, seed and, for a run, everything that images were sampled with but the sweep's axes."""
    words = [f"n {result['n']}", f"seed {result['seed']}"]
    if "steps" in result:
        guidance = " ".join(f"{value}" for value in result["guidance"].values())
        settings = {
            "weights": result["weights"],
            "solver": result["solver"],
            "steps": f"{result['steps']} steps",
            "grid": f"{result['grid']} grid",
            "guidance": f"guidance {guidance}",
        }
        # What the sweep changes stands in its table.
        words += [text for name, text in settings.items() if name not in result["setting"]]
        words.insert(0, result["checkpoint"])
    return ", ".join(words)


def _print_single(result: Mapping[str, Any], console: Console) -> None:
    say = console.print
    say(f"{result['what']}: {_describe(result)}")
    say(f"real images: {result['reference']}")
    for at, feature in enumerate(result["features"]):
        print_table(console, _feature_table(feature, baseline_of(result, at)))
        if feature["note"]:
            say(f"{feature['feature']}: {feature['note']}")
    if "adherence" in result:
        print_table(console, _adherence_table(result["adherence"]))
        order = result["adherence"]["swapped"]["order_accuracy"]
        say(f"order accuracy {order:.3f}: {ORDER_ACCURACY}")
    _print_cautions([result], console)


def _feature_table(feature: Mapping[str, Any], baseline: Mapping[str, float]) -> Table:
    """One row a metric: sampled images against real ones, and real against real."""
    heads = [feature["feature"], f"against {feature['reference_n']} real"]
    columns = [feature["scores"]]
    if "held_out" in feature:
        heads.append(f"against {feature['held_out_n']} held out")
        columns.append(feature["held_out"])
    heads.append(f"real against real, {feature['baseline_n']} each")
    columns.append(baseline)
    table = Table(*heads)
    for name in feature["scores"]:
        if name != "diversity_real":
            table.add_row(name, *(_number(column.get(name)) for column in columns))
    return table


def _adherence_table(adherence: Mapping[str, Any]) -> Table:
    heads = ("prompts", "n", "attribute accuracy", "geometric mean", "whole-scene accuracy")
    table = Table(*heads, "detector on real images")
    for split, scores in adherence.items():
        sampled, real = scores["sampled"], scores["real"]
        numbers = [f"{sampled[key]:.3f}" for key in ("mean", "geometric", "exact")]
        limit = f"{real['mean']:.3f} / {real['geometric']:.3f} / {real['exact']:.3f}"
        table.add_row(split.replace("_", " "), str(sampled["n"]), *numbers, limit)
    return table


def _print_sweep(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    first = results[0]
    console.print(f"{first['what']}: {_describe(first)}")
    console.print(f"real images: {first['reference']}")
    for at, feature in enumerate(first["features"]):
        names = _columns(results, at)
        table = Table(*first["setting"], title=feature["feature"], box=SIMPLE_HEAD, pad_edge=False)
        for name in names:
            table.add_column(name, overflow="fold")
        for result in results:
            scores = scores_of(result, at)
            table.add_row(*result["setting"].values(), *(_number(scores.get(m)) for m in names))
        # Real images last: their score is what sampled ones can reach.
        baseline = baseline_of(first, at)
        blank = [""] * (len(first["setting"]) - 1)
        table.add_section()
        table.add_row("real", *blank, *(_number(baseline.get(m)) for m in names))
        print_table(console, table)
        console.print(f"real: two sets of {feature['baseline_n']} real images")
        _print_best(results, at, console)
    _print_cautions(results, console)


def _print_best(results: Sequence[Mapping[str, Any]], at: int, console: Console) -> None:
    metric = metric_name(results[0]["metric"], results[0]["features"][at]["frechet_name"])
    scored = [result for result in results if metric in scores_of(result, at)]
    if not scored:
        return
    choose = min if is_lower_better(metric) else max
    best = choose(scored, key=lambda result: scores_of(result, at)[metric])
    setting = " ".join(f"{key}={value}" for key, value in best["setting"].items())
    console.print(f"best {metric}: {setting}")


def _print_cautions(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    features = [feature for result in results for feature in result["features"]]
    notes = [text for feature in features for text in feature["cautions"]]
    if any("nearest_ratio" in feature["scores"] for feature in features):
        notes.append(NEAREST_RATIO)
    for text in dict.fromkeys(notes):
        console.print(f"note: {text}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
