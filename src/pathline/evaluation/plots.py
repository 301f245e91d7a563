"""Curves of a sweep: one small plot a metric, one line for each setting of the other axes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pathline.files import write_whole

COLUMNS, WIDTH, HEIGHT = 3, 4.2, 3.2  # plots in a row; inches of each
WIDE = 4  # ratio of greatest to least from which an axis is logarithmic


class Spot(NamedTuple):
    """One combination of a sweep and its scores."""

    setting: Mapping[str, str]  # axis -> value, as it was typed
    scores: Mapping[str, float]


def curves(
    spots: Sequence[Spot],
    metrics: Sequence[str],
    real: Mapping[str, float],
    title: str,
    file: Path,
) -> None:
    """Write the plots as a PNG. real: scores of real images, as dashed lines.

    Raises ImportError, naming the install line, where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("curves need matplotlib: pip install 'pathline[eval]'") from error
    along = abscissa(spots)
    rows = math.ceil(len(metrics) / COLUMNS)
    columns = min(len(metrics), COLUMNS)
    page = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.7), layout="constrained")
    page.suptitle(title, fontsize=9)
    panels = page.subplots(rows, columns, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw(panel, spots, along, metric, real.get(metric))
    # One legend, in the panel that shows most lines.
    fullest = max(panels, key=lambda panel: len(panel.get_legend_handles_labels()[0]))
    if fullest.get_legend_handles_labels()[0]:
        fullest.legend(fontsize=7)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    write_whole(file, lambda part: page.savefig(part, dpi=110, format="png"))


def abscissa(spots: Sequence[Spot]) -> str:
    """The axis along x: of those with numbers the one with most values, else the first.

    Words are along x only where no axis has numbers.
    """
    names = list(spots[0].setting)
    values = {name: {spot.setting[name] for spot in spots} for name in names}
    numeric = [name for name in names if all(_number(v) is not None for v in values[name])]
    return max(numeric or names[:1], key=lambda name: len(values[name]))


def _draw(panel: Any, spots: Sequence[Spot], along: str, metric: str, real: float | None) -> None:
    words = list(dict.fromkeys(spot.setting[along] for spot in spots))
    numbers = [number for word in words if (number := _number(word)) is not None]
    # Values that are no numbers stand side by side, in the order they came in.
    is_scale = len(numbers) == len(words)
    at = dict(zip(words, numbers if is_scale else range(len(words)), strict=True))
    for label, line in _lines(spots, along).items():
        points = sorted(
            (at[s.setting[along]], s.scores[metric]) for s in line if metric in s.scores
        )
        if points:
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label or None)
    if real is not None:
        panel.axhline(real, color="0.4", linestyle="--", linewidth=1, label="real against real")
    if is_scale and 0 < WIDE * min(numbers) < max(numbers):
        panel.set_xscale("log")
    panel.set_xticks(list(at.values()), words)
    panel.minorticks_off()
    panel.set_xlabel(along)
    panel.set_title(metric, fontsize=10)
    panel.grid(alpha=0.3)


def _lines(spots: Sequence[Spot], along: str) -> dict[str, list[Spot]]:
    """The spots by their setting on the other axes."""
    lines: dict[str, list[Spot]] = {}
    for spot in spots:
        label = ", ".join(f"{name} {v}" for name, v in spot.setting.items() if name != along)
        lines.setdefault(label, []).append(spot)
    return lines


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
