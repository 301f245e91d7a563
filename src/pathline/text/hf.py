"""Frozen text encoders of transformers as rows: captions to states, mask and pooled vector."""

from collections.abc import Sequence

from torch import device

from pathline.dtypes import Dtype
from pathline.text.cached import UNMADE, Lazy
from pathline.text.frozen import frozen, usual
from pathline.text.loading import Found, find
from pathline.text.states import Reading
from pathline.types import Cond, Facts, Text

T5S = ("t5", "mt5", "umt5")
CLIPS = ("clip", "clip_text_model")
SIGLIPS = ("siglip2", "siglip2_text_model", "siglip", "siglip_text_model")


def t5(
    _: Facts, *, path: str = "google-t5/t5-small", length: int = 128, dtype: Dtype = "fp32"
) -> Text:
    """T5's encoder: also v1.1, flan, XXL, mT5, UMT5.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen("t5", _of(path, T5S), Reading(length), dtype)


def t5gemma(
    _: Facts,
    *,
    path: str = "google/t5gemma-2b-2b-ul2",
    length: int = 256,
    dtype: Dtype = "bf16",
) -> Text:
    """T5Gemma's encoder; the decoder is not loaded.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen("t5gemma", _of(path, ("t5gemma",)), Reading(length), dtype)


def t5gemma2(
    _: Facts,
    *,
    path: str = "google/t5gemma-2-270m-270m",
    length: int = 256,
    dtype: Dtype = "bf16",
) -> Text:
    """T5Gemma 2's text encoder; decoder and vision tower are let go.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen("t5gemma2", _of(path, ("t5gemma2",)), Reading(length), dtype)


def clip(
    _: Facts,
    *,
    path: str = "openai/clip-vit-large-patch14",
    length: int = 77,
    layer: int = -1,
    projected: bool = False,
    dtype: Dtype = "fp32",
) -> Text:
    """CLIP's text tower, with its pooled vector.

    layer: -2 for the penultimate states of SDXL; web pages' "clip skip n" is layer=-n. projected:
    the pooled vector in the space shared with pictures (SDXL, SD3); otherwise before it (FLUX.1).
    """
    found, pooled = _of(path, CLIPS), "own"
    return frozen("clip", found, Reading(length, layer, pooled), dtype, projected)


def siglip2(
    _: Facts,
    *,
    path: str = "google/siglip2-base-patch16-224",
    layer: int = -1,
    dtype: Dtype = "fp32",
) -> Text:
    """SigLIP 2's text tower, with its pooled vector; also SigLIP's.

    As it was trained: lower case, always padded to its full length, padding read like words.
    """
    found = _of(path, SIGLIPS)
    return frozen("siglip2", found, usual(found, None, layer), dtype)


def hidden(
    _: Facts,
    *,
    path: str = "Qwen/Qwen3-4B",
    length: int = 512,
    layer: int = -2,
    before: str = "",
    chat: bool = False,
    dtype: Dtype = "bf16",
) -> Text:
    """A hidden layer of a language model: Gemma 2 or 3, Qwen 3, also inside a vision model.

    before: words before each caption, left out of the null: Lumina 2 has google/gemma-2-2b with
    "You are an assistant … <Prompt Start> " and length 256. chat: the tokenizer's chat template:
    Z-Image has Qwen/Qwen3-4B so. layer: of hidden_states, 0 the embedding, -1 the last, normed.
    """
    reading = Reading(length, layer, before=before, chat=chat)
    return frozen("hidden", find(path), reading, dtype)


def encoder(
    _: Facts, *, path: str, length: int | None = None, layer: int = -1, dtype: Dtype = "fp32"
) -> Text:
    """Any text encoder of transformers, known by its config.json; pooled by itself or as a mean.

    path: a folder, a name on the hub, or package:NAME/FOLDER of an installed Python package.
    length: most tokens of a caption; null: 128, or what it can read.
    """
    found = find(path)
    return frozen("encoder", found, usual(found, length, layer), dtype)


def pair(
    _: Facts,
    *,
    states: str,
    pooled: str,
    length: int | None = None,
    layer: int = -1,
    dtype: Dtype = "fp32",
) -> Text:
    """Two encoders: states of one, pooled vector of the other (FLUX.1: T5 and CLIP).

    states, pooled: paths as of text=encoder. length, layer: of the states. Drop them apart in
    training with objective.dropout_pooled.
    """
    tall, short = find(states), find(pooled)
    reading = usual(tall, length, layer)._replace(pooled="none")
    one = frozen("states", tall, reading, dtype)
    two = frozen("pooled", short, usual(short, None, -1), dtype)

    def encode(captions: Sequence[str | int | None]) -> Cond:
        return one.encode(captions)._replace(pooled=two.encode(captions).pooled)

    def to(place: device) -> None:
        for text in (one, two):
            assert text.to is not None
            text.to(place)

    name = f"pair {one.id} + {two.id}"
    return Lazy(encode, UNMADE, one.width, pooled_width=two.pooled_width, id=name, to=to)


def _of(path: str, kinds: Sequence[str]) -> Found:
    found = find(path)
    if found.model_type not in kinds:
        raise ValueError(
            f"{path} is a {found.model_type!r} model, but this row reads {kinds[0]!r}: "
            "text=encoder takes any kind."
        )
    return found
