"""A found encoder as a Text: its weights load at the first word, and stay as they are."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import device, nn

from pathline.dtypes import TORCH_NAMES, Dtype
from pathline.text.cached import UNMADE, Lazy
from pathline.text.loading import Found, load, load_tokenizer, title
from pathline.text.states import Reading, states_of, tokenize, worded
from pathline.types import Cond, Text

USUAL = 128  # tokens of a caption, where nothing is said


def usual(found: Found, length: int | None, layer: int) -> Reading:
    """As this kind is read; length None: USUAL, or as much as it can read."""
    kind, most = found.kind, _most(found)
    if length is None:
        length = most if kind.whole and most else min(USUAL, most or USUAL)
    return Reading(length, layer, "own" if kind.own else "mean", kind.whole)


def frozen(row: str, found: Found, reading: Reading, dtype: Dtype, projected: bool = False) -> Text:
    """The encoder as a Text: weights load at the first word and stay; null = encode([None])."""
    _refuse(found, reading, projected)
    where, memory, told = [torch.device("cpu")], {}, []

    @cache
    def loaded() -> tuple[Any, nn.Module]:
        return load_tokenizer(found), load(found, dtype, projected)

    def to(place: device) -> None:
        where[0] = place
        if loaded.cache_info().currsize:
            loaded()[1].to(place)

    def fresh(captions: Sequence[str]) -> Cond:
        tokenizer, module = loaded()
        unique = list(dict.fromkeys(captions))
        rows, cut = tokenize(tokenizer, unique, reading)
        _tell([unique[at] for at in cut], len(unique), found, reading, told)
        states = states_of(module.to(where[0]), rows, tokenizer.pad_token_id or 0, reading)
        if len(unique) == len(captions):
            return Cond(*states)
        number = {caption: at for at, caption in enumerate(unique)}
        rank = torch.tensor([number[caption] for caption in captions])
        return Cond(*(None if value is None else value[rank] for value in states))

    def encode(captions: Sequence[str | int | None]) -> Cond:
        words = [worded(caption) for caption in captions]
        if words != [""]:
            return fresh(words)
        if not memory:  # the null is asked for again and again
            memory["null"] = fresh(words)
        return memory["null"]

    width = found.config.hidden_size
    pooled = _pooled_width(found, reading, projected)
    name = _name(row, found, reading, dtype, projected)
    return Lazy(encode, UNMADE, width, pooled_width=pooled, id=name, to=to)


def _pooled_width(found: Found, reading: Reading, projected: bool) -> int:
    if reading.pooled == "none":
        return 0
    if projected:
        return found.projection
    own = getattr(found.config, "projection_size", None) if found.kind.whole else None
    return own or found.config.hidden_size


def _name(row: str, found: Found, reading: Reading, dtype: Dtype, projected: bool) -> str:
    """All that changes a state, in words."""
    usually = Reading._field_defaults
    said = [f"{k}={v}" for k, v in reading._asdict().items() if v != usually.get(k)]
    return " ".join(
        [row, title(found), *said, TORCH_NAMES[dtype], *(["projected"] if projected else [])]
    )


def _most(found: Found) -> int | None:
    """Tokens that it can read; None: any number."""
    return getattr(found.config, "max_position_embeddings", None)


def _refuse(found: Found, reading: Reading, projected: bool) -> None:
    layers = found.config.num_hidden_layers
    if not -layers - 1 <= reading.layer <= layers:
        raise ValueError(
            f"text.layer={reading.layer} is no hidden state of {found.name}: it has {layers} "
            f"layers, so 0 … {layers}, or -1 … {-layers - 1} from the end."
        )
    most = _most(found) or reading.length
    least = most if reading.whole else 1
    if not least <= reading.length <= most:
        raise ValueError(
            f"text.length={reading.length} tokens can't be read by {found.name}: "
            f"it reads {least} … {most}."
        )
    if projected and not found.projection:
        raise ValueError(f"{found.name} has no projection; use text.projected=false.")


def _tell(cut: list[str], asked: int, found: Found, reading: Reading, told: list[bool]) -> None:
    if cut and not told:
        told.append(True)
        most = _most(found)
        warnings.warn(
            f"{len(cut)} of {asked} captions are longer than text.length={reading.length} tokens "
            f"and are cut, the first {cut[0][:60]!r} …"
            + (f" {found.name} reads up to {most}." if most else ""),
            stacklevel=4,
        )
