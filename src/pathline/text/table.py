"""The text encoders by name. A row is built from the facts of the data and gives a `Text`."""

from pathline.text.hf import clip, encoder, hidden, pair, siglip2, t5, t5gemma, t5gemma2
from pathline.text.labels import labels, none
from pathline.text.learned import words

TEXTS = {
    "none": none,
    "labels": labels,
    "words": words,
    "t5": t5,
    "t5gemma": t5gemma,
    "t5gemma2": t5gemma2,
    "clip": clip,
    "siglip2": siglip2,
    "hidden": hidden,
    "encoder": encoder,
    "pair": pair,
}
