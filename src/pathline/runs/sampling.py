"""How a run samples: its trained parts, and its settings with the command line's over them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pathline.assemble import assemble, put_on, sampler
from pathline.config.resolve import read
from pathline.config.run import Run, Sample
from pathline.config.values import read_scalar
from pathline.errors import is_out_of_memory
from pathline.generate import check_sampler
from pathline.hints import nearest
from pathline.parts import Parts, Sampler
from pathline.runs.contrastive_mean import PUSH_MEAN, mean_velocity
from pathline.runs.folder import SETTINGS, Opened
from pathline.tables import TABLES
from pathline.training import checkpoint
from pathline.training.ema import Ema
from pathline.training.power_ema import read as read_average
from pathline.weights import require_finite

KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")  # the beginning of a word that is a setting
SHORT = tuple(field.name for field in fields(Sample))  # steps, solver, …: of `sample`


def split_words(words: Iterable[object]) -> tuple[list[str], list[str]]:
    """The words of a command line that are key=value, and all others, without spaces around.

    A prompt that begins like a setting is one with a space before it.
    """
    texts = [str(word) for word in words]
    settings = [text for text in texts if KEY.match(text)]
    return settings, [text.strip() for text in texts if not KEY.match(text)]


def full_keys(settings: Sequence[str], options: Collection[str] = ()) -> list[str]:
    """Settings with their whole key: steps=20 as sample.steps=20, guidance=3 as its scale.

    options: names of the command's options, for the message. Raises ValueError for a key that is
    no sampling setting, with the nearest one.
    """
    return [_full_key(text, options) for text in settings]


def _full_key(text: str, options: Collection[str]) -> str:
    key, _, value = text.partition("=")
    first, _, _ = key.removeprefix("sample.").partition(".")
    # A bare number for guidance is its scale.
    if first in SHORT:
        key = key.removeprefix("sample.")
        is_scale = key == "guidance" and not isinstance(read_scalar(value), str)
        return f"sample.{key}{'.scale' if is_scale else ''}={value}"
    # Near misses, each with its own remedy.
    if key in options:
        raise ValueError(f"{text} is an option and not a setting. Write --{key} {value}.")
    if first in {field.name for field in fields(Run)} - {"sample"}:
        raise ValueError(
            f"{text} can't be changed after training: sampling takes {', '.join(SHORT)}. "
            f"Train another run with {text}."
        )
    raise ValueError(
        f"{text} is wrong because {key} is no sampling setting.{nearest(first, SHORT)} There are: "
        f"{', '.join(SHORT)}, and their options such as guidance.low. Write a prompt that begins "
        f"like a setting with a space before it: ' {text}'."
    )


def sampling_settings(
    opened: Opened[Run], settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Sample:
    """The run's sampling settings with others over them.

    settings: key=value, with or without `sample.`. flags: values of options by their setting's
    name, None where not typed; they win. Raises ValueError for every wrong key and value.
    """
    typed = [f"{key}={value}" for key, value in (flags or {}).items() if value is not None]
    overrides = full_keys([*settings, *typed])
    base = opened.run if opened.exported else (opened.saved or opened.folder) / SETTINGS
    return read(None, (), overrides, base=base, tables=TABLES).run.sample


def weights_of(opened: Opened[Run], ema: float | Path | None) -> tuple[dict[str, Tensor], str]:
    """The network's tensors for sampling, and which they are; ema as of `sampling.parts_of`."""
    if opened.exported:
        return _exported_weights(opened, ema)
    average, named = _average(opened, ema)
    weights = _group(opened.checkpoint, "network") | average
    require_finite(weights, f"{opened.checkpoint} ({named})")
    return weights, named


def _exported_weights(opened: Opened[Run], ema: float | Path | None) -> tuple[dict, str]:
    """The one set of weights of an exported file."""
    if ema not in (None, opened.run.sample.ema):
        raise ValueError(
            f"--ema {ema} is wrong because {opened.checkpoint} has one set of weights, "
            f"{opened.exported}. Leave out --ema, or name the run."
        )
    weights = load_file(opened.checkpoint)
    weights.pop(PUSH_MEAN, None)
    require_finite(weights, opened.checkpoint)
    return weights, opened.exported


def _group(saved: Path, stem: str) -> dict[str, Tensor]:
    """One file's tensors of a checkpoint. Raises ValueError if it has none."""
    tensors = checkpoint.load(saved, only=(stem,)).tensors
    if stem not in tensors:
        raise ValueError(f"{saved} has no {stem}.safetensors, which its settings ask for.")
    return tensors[stem]


def _average(opened: Opened[Run], ema: float | Path | None) -> tuple[dict[str, Tensor], str]:
    """The averaged weights and their name; none for the weights themselves."""
    if isinstance(ema, Path):
        return read_average(ema), f"average {ema.stem}"
    # The first decay, unless another is asked for.
    decays = opened.run.train.ema
    decay = (decays[0] if decays else 0) if ema is None else ema
    if decay and decay not in decays:
        raise ValueError(
            f"--ema {decay} is wrong because this run has no such average. It has "
            f"{decays or 'none'}; 0 is without EMA."
        )
    if not decay:
        return {}, "weights"
    stem = f"network-ema-{decay}"
    return _group(opened.checkpoint, stem), f"EMA {decay}"


def parts_of(
    opened: Opened[Run], *, ema: float | Path | None, device: torch.device
) -> tuple[Parts, str]:
    """The run's parts with trained weights, and which weights they are.

    ema: one of the run's decays; None its first; 0 the weights themselves; or the file of an
    average that `pathline ema` has rebuilt. Raises ValueError for weights of another network.
    """
    parts = assemble(opened.run, opened.facts)
    weights, named = weights_of(opened, ema)
    try:
        parts.network.load_state_dict(weights)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{named} is not of this network: {' '.join(str(error).split())}"
        ) from None
    put_on(parts, device)
    return parts._replace(push=mean_velocity(opened.run, opened.checkpoint)), named


def checked_sampler(parts: Parts, sample: Sample, weak: Parts | None = None) -> Sampler:
    """The sampler of these settings. Raises ValueError if the parts can't be sampled with it."""
    built = sampler(sample, parts.path)
    check_sampler(parts, built, weak)
    return built


def sampling_ema(run: Run, emas: Iterable[Ema]) -> Ema:
    """The average of the weights that a training samples with: sample.ema, else the first."""
    decay = run.train.ema[0] if run.sample.ema is None else run.sample.ema
    return next(ema for ema in emas if ema.name == f"ema-{decay}")
