"""A pretrained encoder as a Text: its weights load at the first caption and are never trained."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from pathline.deferred import load_on_use
from pathline.dtypes import TORCH_NAMES, Dtype
from pathline.text.cached import NOT_ENCODED, LazyText
from pathline.text.loading import Encoder, identify, load_encoder, load_tokenizer
from pathline.text.states import Reading, clean_caption, encode_rows, tokenize
from pathline.types import Cond, Text

DEFAULT_LENGTH = 128  # tokens of a caption


def default_reading(encoder: Encoder, length: int | None, layer: int) -> Reading:
    """As this family is read; length None: 128 tokens, or as many as it can read."""
    family, longest = encoder.family, _max_length(encoder)
    if length is None:
        shorter = min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH)
        length = longest if family.is_padded and longest else shorter
    return Reading(length, layer, "own" if family.has_pooled else "mean", family.is_padded)


def frozen_text(
    row: str, encoder: Encoder, reading: Reading, dtype: Dtype, *, projected: bool = False
) -> Text:
    """The encoder as a Text; its null is the encoded empty caption."""
    _check_settings(encoder, reading, projected)
    model, to = load_on_use(partial(load_encoder, encoder, dtype, projected))
    tokenizer = cache(partial(load_tokenizer, encoder))
    warn = _warn_once(encoder, reading)

    def encode_captions(captions: Sequence[str]) -> Cond:
        # each caption once: a batch of a cached set has many equal ones
        unique = list(dict.fromkeys(captions))
        rows, cut = tokenize(tokenizer(), unique, reading)
        warn([unique[row] for row in cut], len(unique))
        states = encode_rows(model(), rows, tokenizer().pad_token_id or 0, reading)
        # In order already where no caption repeats.
        if len(unique) == len(captions):
            return Cond(*states)
        number = {caption: row for row, caption in enumerate(unique)}
        order = torch.tensor([number[caption] for caption in captions])
        return Cond(*(None if value is None else value[order] for value in states))

    encode_empty = cache(partial(encode_captions, [""]))  # needed again and again

    def encode(captions: Sequence[str | int | None]) -> Cond:
        texts = [clean_caption(caption) for caption in captions]
        return encode_empty() if texts == [""] else encode_captions(texts)

    return LazyText(
        encode,
        NOT_ENCODED,
        encoder.config.hidden_size,
        pooled_width=_pooled_width(encoder, reading, projected),
        id=_full_id(row, encoder, reading, dtype, projected),
        to=to,
    )


def _pooled_width(encoder: Encoder, reading: Reading, projected: bool) -> int:
    if reading.pooled == "none":
        return 0
    if projected:
        return encoder.projection
    projection = getattr(encoder.config, "projection_size", None)
    return (projection if encoder.family.is_padded else None) or encoder.config.hidden_size


def _full_id(row: str, encoder: Encoder, reading: Reading, dtype: Dtype, projected: bool) -> str:
    """All that changes a state, in words."""
    defaults = Reading._field_defaults
    changed = [f"{k}={v}" for k, v in reading._asdict().items() if v != defaults.get(k)]
    more = ["projected"] if projected else []
    return " ".join([row, identify(encoder), *changed, TORCH_NAMES[dtype], *more])


def _max_length(encoder: Encoder) -> int | None:
    """Tokens that it can read; None: any number."""
    return getattr(encoder.config, "max_position_embeddings", None)


def _check_settings(encoder: Encoder, reading: Reading, projected: bool) -> None:
    layers = encoder.config.num_hidden_layers
    if not -layers - 1 <= reading.layer <= layers:
        raise ValueError(
            f"text.layer={reading.layer} is wrong because {encoder.location} has {layers} layers. "
            f"Take 0 … {layers}, or -1 … {-layers - 1} from the end."
        )
    longest = _max_length(encoder) or reading.length
    # Padding is part of what such an encoder reads, so its full length is the only one.
    shortest = longest if reading.is_padded else 1
    if not shortest <= reading.length <= longest:
        raise ValueError(
            f"text.length={reading.length} is wrong because {encoder.location} reads {shortest} … "
            f"{longest} tokens. Take a length in that range."
        )
    if projected and not encoder.projection:
        raise ValueError(
            f"text.projected=true is wrong because {encoder.location} has no projection. "
            "Use text.projected=false."
        )


def _warn_once(encoder: Encoder, reading: Reading) -> Callable[[list[str], int], None]:
    """A function that warns of captions that were cut, the first time there are any."""
    warned: list[bool] = []

    def warn(cut: list[str], count: int) -> None:
        if not cut or warned:
            return
        warned.append(True)
        longest = _max_length(encoder)
        warnings.warn(
            f"{len(cut)} of {count} captions are longer than text.length={reading.length} tokens "
            f"and are cut, the first {cut[0][:60]!r} …"
            + (f" {encoder.location} reads up to {longest}." if longest else ""),
            stacklevel=4,
        )

    return warn
