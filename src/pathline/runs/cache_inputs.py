"""What a cache is made from: the run's source, buckets, codec, text and vision encoders."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pathline.config.layers import to_tree
from pathline.config.pick import Pick, bind
from pathline.config.resolve import fill
from pathline.config.run import PLACES, Run
from pathline.config.yaml_io import write as to_yaml
from pathline.data.buckets import Buckets, settle
from pathline.data.cache.build import Encoders
from pathline.data.cache.plan import RowSettings
from pathline.data.sources.source import Source
from pathline.data.tags import variant
from pathline.dtypes import Dtype
from pathline.files import write_whole
from pathline.runs.from_cache import SETTINGS
from pathline.runs.from_pictures import open_source, tag_options
from pathline.tables import TABLES
from pathline.text.table import is_frozen
from pathline.types import Codec, Cond, Example, Facts, Text, Vision


class CacheInputs(NamedTuple):
    """What a cache is made from."""

    run: Run
    source: Source
    buckets: Buckets
    settings: RowSettings
    codec: Codec
    text: Text | None  # None: no states are stored
    vision: Vision


def cache_inputs(run: Run, dtype: Dtype = "fp16", text_dtype: Dtype = "fp16") -> CacheInputs:
    """Source, buckets, codec and encoders of a run, no weights loaded. Raises ValueError."""
    run, source = open_source(run)
    run = _settle_text(run, source)
    source, data = _with_tags_arranged(run, source), run.data
    # Codec and encoders are built but load no weights before something is encoded.
    facts = Facts(data.channels, data.size, data.size, source.names)
    codec: Codec = bind(TABLES["codec"], run.codec, PLACES["codec"])(facts)
    text: Text | None = None
    if is_frozen(run.text.name):  # the others leave nothing to store
        text = bind(TABLES["text"], run.text, PLACES["text"])(facts)
    vision: Vision = bind(TABLES["vision"], run.vision, PLACES["vision"])()
    # What a row depends on: a change here makes rows again.
    settings = RowSettings(
        codec=codec.id,
        text=text.id if text else "",
        factor=codec.factor,
        channels=codec.channels,
        colours=data.channels,
        flip=data.flip,
        dtype=dtype,
        text_dtype=text_dtype,
        vision=vision.id,
        vision_width=vision.width,
        vision_tokens=vision.tokens,
    )
    buckets = settle(data.size, codec.factor * patch_size(run), **asdict(data.buckets))
    return CacheInputs(run, source, buckets, settings, codec, text, vision)


def encoders(inputs: CacheInputs, device: torch.device) -> Encoders:
    """The encoders as the writer of a cache calls them; weights load at the first call."""

    def encode(encoder: Codec | Vision, pixels: Tensor) -> Tensor:
        # Moved when something is encoded: a cache that is up to date loads no weights.
        if encoder.to:
            encoder.to(device)
        return encoder.encode(pixels.to(device, non_blocking=True))

    def encode_text(captions: Sequence[str | None]) -> Cond:
        assert inputs.text is not None
        if inputs.text.to:
            inputs.text.to(device)
        return inputs.text.encode(captions)

    features = partial(encode, inputs.vision) if inputs.vision.width else None
    return Encoders(partial(encode, inputs.codec), encode_text, features)


def write_settings(folder: Path, run: Run) -> None:
    """Store the run's settings in its cache, from where trainings take them."""
    write_whole(folder / SETTINGS, to_yaml(to_tree(run)))


def patch_size(run: Run) -> int:
    """Latent positions on a side of one patch of the run's backbone."""
    options = fill(run, TABLES).backbone.options
    of_size = str(options.get("size", "")).rpartition("/")[2]
    return int(options.get("patch") or (of_size if of_size.isdigit() else 1))


def _settle_text(run: Run, source: Source) -> Run:
    """text=auto means classes or nothing; captions need an encoder that is named."""
    if run.text.name != "auto":
        return run
    if source.captioned:
        raise ValueError(
            "text=auto can't choose an encoder for the captions of these pictures. Name one, such "
            "as text=encoder text.path=sentence-transformers/all-MiniLM-L6-v2 (`pathline config "
            "list text`), or leave the captions out with text=none."
        )
    return replace(run, text=Pick("labels" if source.names else "none", {}))


def _with_tags_arranged(run: Run, source: Source) -> Source:
    """The source with each tag list in as many arrangements as data.tags asks for."""
    variants, tags = tag_options(run)
    if not variants:
        return source

    def arranged(read: Callable[[int], Example], row: int) -> Example:
        example = read(row)
        captions = [text for text in example.captions or (example.caption or "",) if text.strip()]
        lists = [_arrangements(text, example.key, variants, run.seed, **tags) for text in captions]
        # Arrangements of all lists in one row; `of` says which caption each one is of.
        texts = tuple(text for arrangements in lists for text in arrangements)
        of = tuple(number for number, arrangements in enumerate(lists) for _ in arrangements)
        return example._replace(caption=texts[0] if texts else None, captions=texts, of=of)

    about = partial(arranged, source.about) if source.about else None
    return source._replace(read=partial(arranged, source.read), about=about)


def _arrangements(caption: str, key: str, count: int, seed: int, **tags: Any) -> dict[str, None]:
    """Each arrangement of a tag list once, in order; prose has one."""
    return dict.fromkeys(variant(caption, key, n, seed, **tags) for n in range(count))
