"""Data from a cache that `pathline preprocess` made: latents by bucket, text states by caption."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathline.codecs.normalise import normalise
from pathline.compatibility import feature_term
from pathline.config.pick import Pick
from pathline.config.resolve import Settings, fill
from pathline.config.resolve import read as read_settings
from pathline.config.run import Run
from pathline.data.cache.reader import Cache, read
from pathline.data.captioned import repeats_of
from pathline.data.captions import choose, refuse_missing_captions
from pathline.parts import Parts
from pathline.runs.dataset import (
    Conditions,
    Dataset,
    LoadedData,
    fingerprint,
    fixed_conditions,
    label_conditions,
    split,
)
from pathline.tables import TABLES
from pathline.text.learned import vocabulary
from pathline.text.table import is_frozen, reads_of
from pathline.types import CacheInfo, Cond, Facts, rows_of

SETTINGS = "run.yaml"  # of a cache: the settings it was made with
DEFAULT_ORIGINS = ("default", "preset ")  # of settings that a person did not choose
FIXED = ("size", "channels", "flip", "buckets", "tags")  # settings of data that made the latents
DECODE_BATCH = 32


def adopt_cache(settings: Settings) -> Run:
    """The run with its cache's codec, text encoder, source and size where no setting differs.

    Raises ValueError for a size or a codec that the cache was not made with.
    """
    run = settings.run
    if not run.data.cache:
        return run
    cached = _cache_settings(run)
    origins = settings.origins.items()
    chosen = {key for key, origin in origins if not origin.startswith(DEFAULT_ORIGINS)}
    # What pixels a latent shows can't be changed any more.
    fixed = {key: getattr(cached.data, key) for key in FIXED}
    for key, value in fixed.items():
        is_chosen = any(f"{name}.".startswith(f"data.{key}.") for name in chosen)
        if is_chosen and getattr(run.data, key) != value:
            raise ValueError(
                f"data.{key}={getattr(run.data, key)}, but the cache {run.data.cache} was made "
                f"with {value}. Leave it out, or make another cache with pathline preprocess."
            )
    # Other rows are the cache's, too, unless another one is chosen by name.
    source = _adopt_pick("data.source", run.data.source, cached.data.source, chosen)
    if "codec.name" in chosen and run.codec.name != cached.codec.name:
        raise ValueError(
            f"codec={run.codec.name} is wrong because the cache {run.data.cache} has latents of "
            f"codec={cached.codec.name}. Leave codec out, or make another cache: `pathline "
            f"preprocess … codec={run.codec.name} --out ANOTHER`."
        )
    codec = _adopt_pick("codec", run.codec, cached.codec, chosen)
    text = _adopt_pick("text", run.text, cached.text, chosen)
    vision = run.vision
    if feature_term(run):
        vision = _adopt_pick("vision", run.vision, cached.vision, chosen)
    data = replace(run.data, source=source, **fixed)
    return replace(run, data=data, codec=codec, text=text, vision=vision)


def _adopt_pick(place: str, pick: Pick, cached: Pick, chosen: Collection[str]) -> Pick:
    """The cache's row with the options chosen for it; another row only if it was chosen by name."""
    if pick.name != cached.name and f"{place}.name" in chosen:
        return pick
    options = {key: value for key, value in pick.options.items() if f"{place}.{key}" in chosen}
    return Pick(cached.name, {**cached.options, **options})


def _cache_settings(run: Run) -> Run:
    """The settings that the run's cache was made with."""
    file = Path(run.data.cache) / SETTINGS
    if not file.is_file():
        raise ValueError(
            f"data.cache={run.data.cache} holds no cache: it has no {SETTINGS}. Make one with "
            f"`pathline preprocess {run.name}`, or use none with data.cache=''."
        )
    return read_settings(base=file).run


def from_cache(run: Run) -> LoadedData:
    """A run whose cache exists, settled by it, and the cache as its data."""
    cached = _cache_settings(run)
    cache = read(Path(run.data.cache), run.data.caption_weights)
    # The size of the run is the one most images have.
    counts = torch.bincount(cache.bucket, minlength=len(cache.sizes))
    height, width = cache.sizes[int(counts.argmax())]
    captions = (text for texts in cache.captions for text in texts)
    facts = Facts(
        cached.data.channels,
        height,
        width,
        tuple(cache.names),
        vocabulary(captions) if reads_of(run.text.name) == "words" else (),
        sizes=tuple(cache.sizes) if len(cache.sizes) > 1 else (),
        cache=_info(cache),
        pictures=fingerprint(cache.keys),
        **_feature_facts(run, cached, cache),
    )
    return LoadedData(run, facts, partial(_dataset, run, cache))


def _feature_facts(run: Run, cached: Run, cache: Cache) -> dict[str, Any]:
    """Facts on the features, if the run reads them. Raises ValueError for another encoder's."""
    if not feature_term(run):
        return {}
    needed, stored = (fill(settings, TABLES).vision for settings in (run, cached))
    if needed != stored or not cache.vision:
        # No features, or another encoder's, would align the network with something else.
        state = f"its features were made with vision={_in_words(stored)}"
        raise ValueError(
            f"{cache.folder}: {state if cache.vision else 'it holds no features'}, and this run "
            f"needs vision={_in_words(needed)}. Leave vision out, or run `pathline preprocess` on "
            "the cache again with it: only the features are made."
        )
    return {"vision": cache.vision, "vision_width": cache.vision_width}


def _in_words(pick: Pick) -> str:
    return " ".join([pick.name, *(f"{key}={value}" for key, value in pick.options.items())])


def _info(cache: Cache) -> CacheInfo:
    tokens, pooled = cache.null.tokens, cache.null.pooled
    return CacheInfo(
        cache.codec,
        cache.channels,
        cache.factor,
        tuple(cache.mean.tolist()),
        tuple(cache.std.tolist()),
        cache.text,
        0 if tokens is None else tokens.shape[-1],
        0 if pooled is None else pooled.shape[-1],
    )


def _dataset(run: Run, cache: Cache, parts: Parts) -> Dataset:
    # Latents are stored raw and normalised on the device.
    train, held = split(run, len(cache.keys))

    def x1(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        raw = cache.latents(rows, flips).to(device, non_blocking=True)
        return normalise(parts.codec, raw)

    def features(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        assert cache.features is not None
        return cache.features(rows, flips).to(device, non_blocking=True)

    return Dataset(
        keys=cache.keys,
        names=tuple(cache.names),
        labels=cache.labels,
        captions=[captions[0] if captions else None for captions in cache.captions],
        train=train,
        held=held,
        x1=x1,
        cond=_conditions(run, cache, parts),
        # A frozen encoder's null is in the cache; others compute theirs.
        null=cache.null if is_frozen(run.text.name) else parts.text.null,
        pixels=partial(_decode, cache, parts),
        bucket=cache.bucket if len(cache.sizes) > 1 else None,
        features=features if parts.facts.vision_width else None,
        repeats=repeats_of(cache.keys, cache.repeats, run.data.repeats),
    )


def _conditions(run: Run, cache: Cache, parts: Parts) -> Conditions:
    reads = reads_of(run.text.name)
    if reads == "words":
        return _word_conditions(run, cache, parts)
    if reads == "labels":
        return label_conditions(cache.labels, parts.text, cache.folder)
    if reads == "nothing":
        return fixed_conditions(Cond())
    return lambda rows, choices: cache.cond(
        rows, torch.zeros(len(rows)) if choices is None else choices
    )


def _word_conditions(run: Run, cache: Cache, parts: Parts) -> Conditions:
    """One of each row's captions by its weight, as words for an encoder that is trained along."""
    if run.data.missing_captions == "refuse":
        refuse_missing_captions(dict(zip(cache.keys, cache.captions, strict=True)))
    table = parts.text.encode([None, *(text for texts in cache.captions for text in texts)])
    counts = torch.tensor([len(texts) for texts in cache.captions])
    first = 1 + counts.cumsum(0) - counts  # row 0 is the null condition

    def cond(rows: Tensor, choices: Tensor | None) -> Cond:
        numbers = torch.zeros(len(rows)) if choices is None else choices
        captions = choose(numbers, [cache.weights[row] for row in rows.tolist()])
        return rows_of(table, torch.where(captions < 0, 0, first[rows] + captions))

    return cond


def _decode(cache: Cache, parts: Parts, rows: Tensor) -> Tensor:
    """The pictures that the codec decodes from latents; the rows are of one bucket."""
    if len(cache.bucket[rows].unique()) > 1:
        raise ValueError("Pictures of several sizes can't be in one tensor. Take one bucket's.")
    device = next(parts.network.parameters()).device
    latents = (cache.latents(part, None).to(device) for part in rows.split(DECODE_BATCH))
    return torch.cat([parts.codec.decode(raw).cpu() for raw in latents])
