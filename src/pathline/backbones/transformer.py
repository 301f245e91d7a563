"""What the transformers here share: the parts before their blocks, and the ends of a forward."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.token_routing import Fuse
from pathline.nn import blocks
from pathline.types import Frame


class Transformer(nn.Module):
    """Embeddings of patches, time and interval, label, text tokens and pooled text.

    A network adds `shared`, `blocks`, `fuse` and `final`, in this order: first weights are drawn in
    the order of the parts. text_out: a second layer of text tokens.
    """

    takes_head = True
    shared: nn.Linear | None  # the projection that all blocks' modulations share

    def __init__(self, frame: Frame, shape: Any, *, text_out: bool = False) -> None:
        super().__init__()
        if frame.height % shape.patch or frame.width % shape.patch:
            raise ValueError(blocks.patch_error(frame.height, frame.width, shape.patch))
        width, text, pooled = shape.width, frame.text_width, frame.pooled_width
        self.frame, self.shape = frame, shape
        self.takes_r, self.has_route = shape.takes_r, shape.route != "none"
        self.has_join = shape.route == "sprint"
        self.patch = blocks.patch_embedding(
            shape.patch**2 * frame.channels, shape.bottleneck, width
        )
        self.time = blocks.TimeEmbedding(width, scale=shape.time_scale)
        self.interval = (
            blocks.TimeEmbedding(width, scale=shape.time_scale) if shape.takes_r else None
        )
        self.label_table = nn.Embedding(frame.classes + 1, width) if frame.classes else None
        self.text = blocks.TextIn(text, width) if text else None
        self.text_out = nn.Linear(width, width) if text and text_out else None
        self.text_pooled = blocks.TextIn(pooled, width) if pooled else None

    def build_fuse(self) -> Fuse | None:
        """What joins tokens that skipped a part of the blocks."""
        return Fuse(self.shape.width) if self.has_join else None


def output_channels(frame: Frame, outputs: int | None) -> int:
    """Channels that the network gives. Raises ValueError for fewer than x has."""
    if outputs is not None and outputs < frame.channels:
        raise ValueError(
            f"backbone.outputs={outputs} is wrong because x has {frame.channels} channels. "
            f"Set {frame.channels} or more."
        )
    return frame.channels if outputs is None else outputs


def image_tokens(tokens: Float[Tensor, "b l d"], count: int) -> Float[Tensor, "b k d"]:
    """The first `count` tokens, the image's."""
    # cloned, since fsdp2 loses its hook on a view; without text a slice would copy for nothing
    return tokens if tokens.shape[1] == count else tokens[:, :count].clone()


def first_channels(value: Float[Tensor, "b k h w"], count: int) -> Float[Tensor, "b c h w"]:
    """The value: published weights may predict further channels, a variance."""
    return value[:, :count] if value.shape[1] > count else value


def key_mask(
    mask: Bool[Tensor, "a m"] | None, b: int, *, before: int = 0
) -> Bool[Tensor, "b 1 1 l"] | None:
    """Text's mask for attention in a batch of b, after `before` image tokens, which all count."""
    if mask is None:
        return None
    mask = mask.expand(b, -1)
    return (F.pad(mask, (before, 0), value=True) if before else mask)[:, None, None, :]


def append(tokens: Float[Tensor, "b l d"], text: Float[Tensor, "a m d"]) -> Float[Tensor, "b k d"]:
    """Image tokens followed by text tokens, so that a longer caption moves no image token."""
    return torch.cat([tokens, text.expand(len(tokens), -1, -1).to(tokens.dtype)], dim=1)
