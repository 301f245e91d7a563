"""Settings of `pathline eval`: features with their options, and every combination of a sweep."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from pathline.config.pick import Pick, bind
from pathline.config.resolve import read
from pathline.config.run import Eval, Run, Sample
from pathline.config.values import read_scalar
from pathline.config.yaml_io import read_value
from pathline.metrics.features import FEATURES
from pathline.runs.folder import SETTINGS, Opened
from pathline.runs.sampling import full_keys, sampling_settings

SHORT = ("n", "feature", "metric")  # settings of `eval` that need no `eval.` before them


class Variant(NamedTuple):
    """One combination of a sweep: how the images are sampled."""

    setting: dict[str, str]  # axis -> value, as it was typed
    sample: Sample
    ema: float | None


class EvalSettings(NamedTuple):
    """key=value settings by what they are for."""

    sampling: list[str]
    evaluation: list[str]  # eval.n, eval.feature, eval.metric
    options: list[str]  # of features, such as pca.width=32


def sort_settings(settings: Sequence[str]) -> EvalSettings:
    """Settings of features and of `eval` apart from those of sampling."""
    groups = EvalSettings([], [], [])
    for text in settings:
        first = text.partition("=")[0].partition(".")[0]
        if first in FEATURES:
            groups.options.append(text)
        elif first in ("eval", *SHORT):
            groups.evaluation.append(f"eval.{text.removeprefix('eval.')}")
        else:
            groups.sampling.append(text)
    return groups


def eval_settings(opened: Opened[Run] | None, settings: Sequence[str]) -> Eval:
    """The run's settings of evaluations, or the defaults, with others over them."""
    base = None if opened is None else (opened.saved or opened.folder) / SETTINGS
    return read(None, (), settings, base=base).run.eval


def read_features(names: Sequence[str], options: Sequence[str]) -> list[Pick]:
    """The features that are named, with their options; empty for the run's."""
    options_of: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in options:
        key, _, value = text.partition("=")
        name, _, option = key.partition(".")
        if not option:
            raise ValueError(f"{text!r} is no option of a feature: write FEATURE.OPTION=VALUE.")
        options_of.setdefault(name, {})[option] = read_value(value)
    picks = [Pick(name, values) for name, values in options_of.items()]
    for pick in picks:
        bind(FEATURES, pick, "feature")
    return picks


def read_variants(
    opened: Opened[Run], sweep: Sequence[str], settings: Sequence[str], flags: Mapping[str, Any]
) -> list[Variant]:
    """Every combination of the sweep's axes, over the run's sampling settings and the others.

    flags: values of options by their setting's name, None where not typed.
    """
    axes = _read_axes(sweep)
    typed = [*settings, *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    typed = [text.removeprefix("sample.") for text in typed]
    keys = {full_keys([text])[0].partition("=")[0] for text in typed}
    for axis, (value, *_) in axes.items():
        if full_keys([f"{axis}={value}"])[0].partition("=")[0] in keys:
            raise ValueError(f"{axis} is an axis of --sweep and set too; set it once.")
    variants = []
    for values in product(*axes.values()):
        setting = dict(zip(axes, values, strict=True))
        chosen = [*typed, *(f"{key}={value}" for key, value in setting.items())]
        # `ema` selects weights and is no sampling setting; the last one counts.
        emas = [text.partition("=")[2] for text in chosen if text.startswith("ema=")]
        chosen = [text for text in chosen if not text.startswith("ema=")]
        sample = sampling_settings(opened, chosen)
        variants.append(Variant(setting, sample, _to_decay(emas[-1]) if emas else sample.ema))
    return variants


def _read_axes(sweep: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for text in sweep:
        key, _, values = text.partition("=")
        words = [word.strip() for word in values.split(",")]
        if not key or not all(words) or key in axes:
            raise ValueError(
                f"{text!r} is no axis of a sweep: write KEY=VALUE,VALUE,… for each key once, such "
                "as --sweep guidance=1,1.5,2 steps=4,8,20 (the run comes before --sweep)."
            )
        axes[key] = list(dict.fromkeys(words))
    return axes


def _to_decay(value: str) -> float:
    decay = read_scalar(value)
    if isinstance(decay, bool) or not isinstance(decay, int | float):
        raise ValueError(f"ema={value} is no number. Give a decay of train.ema, or 0 for no EMA.")
    return float(decay)
