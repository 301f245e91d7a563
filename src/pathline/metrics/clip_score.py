"""Does a picture show what was asked for: by CLIP for captions, by a classifier for labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pathline.metrics.feature import in_batches
from pathline.metrics.pretrained_features import hear, load, load_tokenizer, see


class ClipScore(NamedTuple):
    mean: float  # 100 · cosine
    pictures: Float[Tensor, " n"]
    cut: int  # captions longer than the model hears
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
    """100 · cosine of pictures and their captions (arXiv 2104.08718 without its factor and floor).

    Scores of different models can't be compared. Raises ValueError for unequal numbers.
    """
    if len(captions) != len(pixels) or not len(pixels):
        raise ValueError(
            f"{len(pixels)} pictures came with {len(captions)} captions; give one each"
        )
    network, tokenizer = load(model, "clip").to(device), load_tokenizer(model)
    seen = in_batches(pixels, batch, lambda p: see(network, p.to(device), resize))
    most = network.config.text_config.max_position_embeddings
    ids, mask, cut = _tokens(tokenizer, captions, most)
    rows = range(0, len(ids), batch)
    with torch.no_grad():
        heard = torch.cat(
            [
                hear(network, ids[i : i + batch].to(device), mask[i : i + batch].to(device)).cpu()
                for i in rows
            ]
        )
    scores = 100 * (seen.double() * heard.double()).sum(1)
    size = network.config.vision_config.image_size
    return ClipScore(scores.mean().item(), scores, cut, f"{Path(model).name}-{resize}{size}")


def conditional_accuracy(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Share of drawn pictures that a classifier takes for the class that was asked for."""
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} rows of logits came with {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, "
            f"but the classifier knows 0 … {logits.shape[1] - 1}"
        )
    return (logits.argmax(1) == labels.to(logits.device)).double().mean().item()


def _tokens(tokenizer: Any, captions: Sequence[str], most: int) -> tuple[Tensor, Tensor, int]:
    """Word numbers and mask [n l] of at most `most` words, and how many captions were cut."""
    lengths = [len(ids) for ids in tokenizer(list(captions)).input_ids]
    found = tokenizer(
        list(captions), padding=True, truncation=True, max_length=most, return_tensors="pt"
    )
    return found.input_ids, found.attention_mask, sum(length > most for length in lengths)
