"""Data from a cache that `pathline preprocess` made: latents by bucket, text states by caption."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathline.assemble import Parts
from pathline.codecs.normalise import normalise
from pathline.compatibility import feature_term
from pathline.config.pick import Pick
from pathline.config.resolve import Settings, fill
from pathline.config.resolve import read as read_settings
from pathline.config.run import Run
from pathline.data.cache.reader import Cache, read
from pathline.data.captions import choose, refuse_missing_captions
from pathline.runs.dataset import Dataset, LoadedData, fingerprint, split
from pathline.tables import TABLES
from pathline.text.learned import vocabulary
from pathline.text.table import is_frozen, reads_of
from pathline.types import Cond, Facts, Made, rows_of

SETTINGS = "run.yaml"  # of a cache: the settings it was made with
UNSAID = ("default", "preset ")  # origins of settings that nobody asked for
AT_ONCE = 32  # latents decoded in one go


def adopted(settings: Settings) -> Run:
    """The run with its cache's codec, text encoder, source and size where nobody said otherwise.

    Raises ValueError for a size that the cache does not have.
    """
    run = settings.run
    if not run.data.cache:
        return run
    made = read_settings(base=_settings_of(run)).run
    said = {key for key, origin in settings.origins.items() if not origin.startswith(UNSAID)}
    for key in ("size", "channels", "flip", "buckets", "tags"):
        own, theirs = getattr(run.data, key), getattr(made.data, key)
        if own != theirs and any(f"{name}.".startswith(f"data.{key}.") for name in said):
            raise ValueError(
                f"data.{key}={own}, but the cache {run.data.cache} was made with {theirs}; leave "
                "it out, or make another cache with pathline preprocess."
            )
    data = replace(
        run.data,
        source=_pick("data.source", run.data.source, made.data.source, said),
        size=made.data.size,
        channels=made.data.channels,
        flip=made.data.flip,
        buckets=made.data.buckets,
        tags=made.data.tags,
    )
    codec = _pick("codec", run.codec, made.codec, said)
    text = _pick("text", run.text, made.text, said)
    vision = _pick("vision", run.vision, made.vision, said) if feature_term(run) else run.vision
    return replace(run, data=data, codec=codec, text=text, vision=vision)


def _settings_of(run: Run) -> Path:
    file = Path(run.data.cache) / SETTINGS
    if not file.is_file():
        raise ValueError(
            f"data.cache={run.data.cache} holds no cache: it has no {SETTINGS}. Make one with "
            f"`pathline preprocess {run.name}`, or take none with data.cache=''."
        )
    return file


def from_cache(run: Run) -> LoadedData:
    """A run whose cache is there, settled by it, and the cache as data."""
    made = read_settings(base=_settings_of(run)).run
    cache = read(Path(run.data.cache), run.data.caption_weights)
    counts = torch.bincount(cache.bucket, minlength=len(cache.sizes))
    height, width = cache.sizes[int(counts.argmax())]
    captions = (text for said in cache.captions for text in said)
    facts = Facts(
        made.data.channels,
        height,
        width,
        tuple(cache.names),
        vocabulary(captions) if reads_of(run.text.name) == "words" else (),
        sizes=tuple(cache.sizes) if len(cache.sizes) > 1 else (),
        made=_made(cache),
        pictures=fingerprint(cache.keys),
        **_features(run, made, cache),
    )
    return LoadedData(run, facts, partial(_data, run, cache))


def _features(run: Run, made: Run, cache: Cache) -> dict[str, Any]:
    """What facts say of the features, if the run wants them. Raises ValueError for others' ones."""
    if not feature_term(run):
        return {}
    wanted, stored = (fill(one, TABLES).vision for one in (run, made))
    if wanted != stored or not cache.vision:
        has = f"its features were made with vision={_said(stored)}"
        raise ValueError(
            f"{cache.folder}: {has if cache.vision else 'it holds no features'}, and this run "
            f"wants vision={_said(wanted)}. Leave vision out, or run `pathline preprocess` on the "
            "cache again with it: just the features are made."
        )
    return {"vision": cache.vision, "vision_width": cache.vision_width}


def _said(pick: Pick) -> str:
    return " ".join([pick.name, *(f"{key}={value}" for key, value in pick.options.items())])


def _made(cache: Cache) -> Made:
    tokens, pooled = cache.null.tokens, cache.null.pooled
    return Made(
        cache.codec,
        cache.channels,
        cache.factor,
        tuple(cache.mean.tolist()),
        tuple(cache.std.tolist()),
        cache.text,
        0 if tokens is None else tokens.shape[-1],
        0 if pooled is None else pooled.shape[-1],
    )


def _pick(place: str, own: Pick, made: Pick, said: Collection[str]) -> Pick:
    """The cache's row with what the person said of it; another row only if they said so."""
    if own.name != made.name and f"{place}.name" in said:
        return own
    kept = {key: value for key, value in own.options.items() if f"{place}.{key}" in said}
    return Pick(made.name, {**made.options, **kept})


def _data(run: Run, cache: Cache, parts: Parts) -> Dataset:
    train, held = split(run, len(cache.keys))

    def x1(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        raw = cache.latents(rows, flips).to(device, non_blocking=True)
        return normalise(parts.codec, raw)

    def features(rows: Tensor, flips: Tensor | None, device: torch.device) -> Tensor:
        assert cache.features is not None
        return cache.features(rows, flips).to(device, non_blocking=True)

    return Dataset(
        cache.keys,
        tuple(cache.names),
        cache.labels,
        [captions[0] if captions else None for captions in cache.captions],
        train,
        held,
        x1,
        _cond(run, cache, parts),
        cache.null if is_frozen(run.text.name) else parts.text.null,
        partial(_decoded, cache, parts),
        cache.bucket if len(cache.sizes) > 1 else None,
        features if parts.facts.vision_width else None,
    )


def _cond(run: Run, cache: Cache, parts: Parts):
    if is_frozen(run.text.name):
        still = torch.zeros(1)
        return lambda rows, choices: cache.cond(
            rows, still.expand(len(rows)) if choices is None else choices
        )
    if reads_of(run.text.name) == "words":
        return _words(run, cache, parts)
    labels = reads_of(run.text.name) == "labels"
    if labels and cache.labels is None:
        raise ValueError(f"text=labels needs classes, but {cache.folder} has none; use text=none.")
    every = parts.text.encode(cache.labels.tolist()) if labels else Cond()  # type: ignore[union-attr]
    return lambda rows, _: rows_of(every, rows)


def _words(run: Run, cache: Cache, parts: Parts) -> Callable[[Tensor, Tensor | None], Cond]:
    """One of each row's captions by its weight, as words for an encoder that is trained along."""
    if run.data.missing_captions == "refuse":
        refuse_missing_captions(dict(zip(cache.keys, cache.captions, strict=True)))
    every = parts.text.encode([None, *(text for said in cache.captions for text in said)])
    counts = torch.tensor([len(said) for said in cache.captions])
    first = 1 + counts.cumsum(0) - counts

    def cond(rows: Tensor, choices: Tensor | None) -> Cond:
        numbers = torch.zeros(len(rows)) if choices is None else choices
        which = choose(numbers, [cache.weights[row] for row in rows.tolist()])
        return rows_of(every, torch.where(which < 0, 0, first[rows] + which))

    return cond


def _decoded(cache: Cache, parts: Parts, rows: Tensor) -> Tensor:
    """What the codec makes of the latents; the rows are of one bucket."""
    if len(cache.bucket[rows].unique()) > 1:
        raise ValueError("Pictures of several sizes can't stand in one tensor; take one bucket's.")
    device = next(parts.network.parameters()).device
    raws = (cache.latents(part, None).to(device) for part in rows.split(AT_ONCE))
    return torch.cat([parts.codec.decode(raw).cpu() for raw in raws])
