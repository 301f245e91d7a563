"""Frozen text encoders of transformers as rows: captions to states, mask and pooled vector."""

from collections.abc import Sequence

from torch import device

from pathline.dtypes import Dtype
from pathline.ranges import Layer, Positive
from pathline.text.cached import NOT_ENCODED, LazyText
from pathline.text.frozen import default_reading, frozen_text
from pathline.text.loading import Encoder, find_encoder
from pathline.text.states import Reading
from pathline.types import Cond, Facts, Text

T5S = ("t5", "mt5", "umt5")
CLIPS = ("clip", "clip_text_model")
SIGLIPS = ("siglip2", "siglip2_text_model", "siglip", "siglip_text_model")


def t5(
    _: Facts, *, path: str = "google-t5/t5-small", length: Positive = 128, dtype: Dtype = "fp32"
) -> Text:
    """T5's encoder: also v1.1, flan, XXL, mT5, UMT5.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen_text("t5", _find(path, T5S), Reading(length), dtype)


def t5gemma(
    _: Facts,
    *,
    path: str = "google/t5gemma-2b-2b-ul2",
    length: Positive = 256,
    dtype: Dtype = "bf16",
) -> Text:
    """T5Gemma's encoder; the decoder is not loaded.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen_text("t5gemma", _find(path, ("t5gemma",)), Reading(length), dtype)


def t5gemma2(
    _: Facts,
    *,
    path: str = "google/t5gemma-2-270m-270m",
    length: Positive = 256,
    dtype: Dtype = "bf16",
) -> Text:
    """T5Gemma 2's text encoder; decoder and vision tower are not used.

    path: a folder or a name on the hub. length: most tokens of a caption.
    """
    return frozen_text("t5gemma2", _find(path, ("t5gemma2",)), Reading(length), dtype)


def clip(
    _: Facts,
    *,
    path: str = "openai/clip-vit-large-patch14",
    length: Positive = 77,
    layer: Layer = -1,
    projected: bool = False,
    dtype: Dtype = "fp32",
) -> Text:
    """CLIP's text tower, with its pooled vector.

    layer: -2 for the penultimate states of SDXL; "clip skip n" is layer=-n. projected: the pooled
    vector in the space shared with images (SDXL, SD3); otherwise before it (FLUX.1).
    """
    encoder, reading = _find(path, CLIPS), Reading(length, layer, "own")
    return frozen_text("clip", encoder, reading, dtype, projected=projected)


def siglip2(
    _: Facts,
    *,
    path: str = "google/siglip2-base-patch16-224",
    layer: Layer = -1,
    dtype: Dtype = "fp32",
) -> Text:
    """SigLIP 2's text tower, with its pooled vector; also SigLIP's.

    As in its training: lower case, always padded to its full length, padding read like words.
    """
    encoder = _find(path, SIGLIPS)
    return frozen_text("siglip2", encoder, default_reading(encoder, None, layer), dtype)


def hidden(
    _: Facts,
    *,
    path: str = "Qwen/Qwen3-4B",
    length: Positive = 512,
    layer: Layer = -2,
    before: str = "",
    chat: bool = False,
    dtype: Dtype = "bf16",
) -> Text:
    """A hidden layer of a language model: Gemma 2 or 3, Qwen 3, also inside a vision model.

    before: text before each caption, left out of the null: Lumina 2 has google/gemma-2-2b with
    "You are an assistant … <Prompt Start> " and length 256. chat: the tokenizer's chat template:
    as Z-Image with Qwen/Qwen3-4B. layer: of hidden_states, 0 the embedding, -1 the last, normed.
    """
    reading = Reading(length, layer, before=before, chat=chat)
    return frozen_text("hidden", find_encoder(path), reading, dtype)


def encoder(
    _: Facts, *, path: str, length: Positive | None = None, layer: Layer = -1, dtype: Dtype = "fp32"
) -> Text:
    """Any text encoder of transformers, by its config.json; pooled as it does itself, or a mean.

    path: a folder, a name on the hub, or package:NAME/FOLDER of an installed Python package.
    length: most tokens of a caption; null: 128, or what it can read.
    """
    model = find_encoder(path)
    return frozen_text("encoder", model, default_reading(model, length, layer), dtype)


def pair(
    _: Facts,
    *,
    states: str,
    pooled: str,
    length: Positive | None = None,
    layer: Layer = -1,
    dtype: Dtype = "fp32",
) -> Text:
    """Two encoders: states of one, pooled vector of the other (FLUX.1: T5 and CLIP).

    states, pooled: paths as of text=encoder. length, layer: of the states. Training drops them
    independently with objective.dropout_pooled.
    """
    first, second = find_encoder(states), find_encoder(pooled)
    reading = default_reading(first, length, layer)._replace(pooled="none")
    sequence = frozen_text("states", first, reading, dtype)
    vector = frozen_text("pooled", second, default_reading(second, None, -1), dtype)

    def encode(captions: Sequence[str | int | None]) -> Cond:
        return sequence.encode(captions)._replace(pooled=vector.encode(captions).pooled)

    def to(place: device) -> None:
        for text in (sequence, vector):
            assert text.to is not None
            text.to(place)

    return LazyText(
        encode,
        NOT_ENCODED,
        sequence.width,
        pooled_width=vector.pooled_width,
        id=f"pair {sequence.id} + {vector.id}",
        to=to,
    )


def _find(path: str, model_types: Sequence[str]) -> Encoder:
    encoder = find_encoder(path)
    if encoder.model_type not in model_types:
        raise ValueError(
            f"text.path={path} is wrong because it is a {encoder.model_type!r} model, but this row "
            f"reads {model_types[0]!r}. Use text=encoder, which takes any kind."
        )
    return encoder
