"""How well images fit their captions, by CLIP, or their labels, by a classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pathline.metrics.feature import in_batches
from pathline.metrics.pretrained_features import embed_images, embed_texts, load, load_tokenizer


class ClipScore(NamedTuple):
    mean: float  # 100 · cosine
    pictures: Float[Tensor, " n"]
    cut: int  # captions longer than the text encoder takes
    name: str  # of model and resizing


def clip_score(
    pixels: UInt8[Tensor, "n c h w"],
    captions: Sequence[str],
    device: torch.device,
    *,
    model: str = "openai/clip-vit-base-patch32",
    resize: Literal["bilinear", "clean"] = "clean",
    batch: int = 64,
) -> ClipScore:
    """100 · cosine of images and their captions (arXiv 2104.08718 without its factor and floor).

    Scores of different models can't be compared. Raises ValueError for unequal numbers.
    """
    if len(captions) != len(pixels) or not len(pixels):
        raise ValueError(
            f"{len(captions)} captions for {len(pixels)} images are wrong. Give one each."
        )
    network, tokenizer = load(model, "clip").to(device), load_tokenizer(model)
    # Unit vectors of images and captions; the score is 100 × their cosine.
    image_vectors = in_batches(pixels, batch, lambda p: embed_images(network, p.to(device), resize))
    max_length = network.config.text_config.max_position_embeddings
    ids, mask, cut = _tokens(tokenizer, captions, max_length)
    rows = range(0, len(ids), batch)
    with torch.no_grad():
        text_vectors = torch.cat(
            [
                embed_texts(
                    network, ids[i : i + batch].to(device), mask[i : i + batch].to(device)
                ).cpu()
                for i in rows
            ]
        )
    scores = 100 * (image_vectors.double() * text_vectors.double()).sum(1)
    size = network.config.vision_config.image_size
    return ClipScore(scores.mean().item(), scores, cut, f"{Path(model).name}-{resize}{size}")


def conditional_accuracy(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Share of sampled images that a classifier assigns to the class they were sampled for."""
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(logits)} images are wrong. Give one each.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, "
            f"but the classifier has classes 0 … {logits.shape[1] - 1}"
        )
    return (logits.argmax(1) == labels.to(logits.device)).double().mean().item()


def _tokens(tokenizer: Any, captions: Sequence[str], max_length: int) -> tuple[Tensor, Tensor, int]:
    """Token ids and mask [n l] of at most `max_length` tokens, and the number of cut captions."""
    lengths = [len(ids) for ids in tokenizer(list(captions)).input_ids]
    tokens = tokenizer(
        list(captions), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask, sum(length > max_length for length in lengths)
