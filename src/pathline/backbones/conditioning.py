"""What all backbones do alike: check inputs, embed conditions, run blocks, set first weights."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from pathline.nn import blocks
from pathline.nn.modulation import BlockModulation, LowRankModulation, SharedModulation
from pathline.types import Call, Cond, Frame

if TYPE_CHECKING:

    class Backbone(Protocol):
        """The parts that the functions here read; a part a network lacks is None."""

        frame: Frame
        time: blocks.TimeEmbedding
        interval: blocks.TimeEmbedding | None  # of r − t, in a network that takes a later time
        label_table: nn.Embedding | None
        text_pooled: blocks.TextIn | None
        shared: nn.Linear | None  # the projection that all blocks' modulations share

        @property
        def shape(self) -> Any: ...

        @property
        def final(self) -> Any: ...

        def modules(self) -> Iterator[nn.Module]: ...

else:  # checkers of shapes at run time call isinstance, which a protocol cannot answer
    Backbone = Any


class NoFinal(nn.Module):
    """In place of a last layer whose output is not used: no weights, zeros."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Float[Tensor, "b l d"], *_: Tensor) -> Float[Tensor, "b l e"]:
        return x.new_zeros(*x.shape[:2], self.outputs)


def embed_conditions(
    network: Backbone, t: Float[Tensor, " b"], cond: Cond, r: Float[Tensor, " b"] | None
) -> Float[Tensor, "b d"]:
    """The sum of the embeddings of time, interval r − t, label and pooled text."""
    conditioning = network.time(t)
    if network.interval is not None and r is not None:
        conditioning = conditioning + network.interval(r - t)
    if network.label_table is not None:
        conditioning = conditioning + network.label_table(cond.labels)
    if network.text_pooled is not None and cond.pooled is not None:
        pooled = network.text_pooled(cond.pooled[:, None])[:, 0]
        conditioning = conditioning + pooled.to(conditioning.dtype)
    return conditioning


def run_block(block: nn.Module, checkpoint: bool, *inputs: Tensor | None) -> Tensor:
    """The block's output; with `checkpoint` it is computed again in the backward pass."""
    if checkpoint and torch.is_grad_enabled():
        return recompute(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


def init_weights(network: Backbone) -> None:
    """DiT's initial weights: Xavier everywhere, small embeddings, all gates and outputs at 0."""
    assert isinstance(network, nn.Module)
    # Xavier first: everything after it replaces the values of a part.
    blocks.xavier(network)
    for module in network.modules():
        if isinstance(module, blocks.TimeEmbedding):
            nn.init.normal_(module.up.weight, std=0.02)
            nn.init.normal_(module.down.weight, std=0.02)
    if network.label_table is not None:
        nn.init.normal_(network.label_table.weight, std=network.shape.label_std)
    # Zero modulation closes every gate, so that a block begins as the identity (adaLN-Zero).
    if network.shared is not None:
        nn.init.zeros_(network.shared.weight)
    zero_modulations(network)
    nn.init.zeros_(network.final.linear.weight)


def zero_modulations(network: nn.Module) -> None:
    """Every modulation at 0, so that its block starts as the identity."""
    for module in network.modules():
        if isinstance(module, BlockModulation | LowRankModulation | SharedModulation):
            module.zero()


def check_inputs(
    network: Backbone, x: Tensor, cond: Cond, call: Call, *, any_size: bool = False
) -> None:
    """Raises ValueError if the inputs are not what the network was built for.

    any_size: height and width need not be the frame's, but multiples of the patch.
    """
    _check_size(network, x, any_size)
    if (call.r is not None) != network.shape.takes_r:
        raise ValueError(
            "This network was built with takes_r=true and needs the later time r."
            if call.r is None
            else "This network was built with takes_r=false and takes no later time r. Build it "
            "with takes_r=true to train average velocities from t to r."
        )
    # Embeddings are summed, so a missing or unexpected input would go unnoticed.
    for name, value, width in (
        ("labels", cond.labels, network.frame.classes),
        ("tokens", cond.tokens, network.frame.text_width),
        ("pooled", cond.pooled, network.frame.pooled_width),
    ):
        if (value is not None) != bool(width):
            state = f"has no {name}, but this network was built with them"
            if not width:
                state = f"has {name}, but this network was built without"
            raise ValueError(f"The condition {state}.")


def _check_size(network: Backbone, x: Tensor, any_size: bool) -> None:
    frame, patch = network.frame, network.shape.patch
    channels, height, width = x.shape[1:]
    if any_size and channels != frame.channels:
        raise ValueError(
            f"This network was built for images of {frame.channels} channels, got {channels}."
        )
    if any_size and (height % patch or width % patch):
        raise ValueError(blocks.patch_error(height, width, patch))
    if not any_size and x.shape[1:] != (frame.channels, frame.height, frame.width):
        raise ValueError(
            f"This network was built for images of {frame.channels}x{frame.height}x{frame.width} "
            f"(channels, height, width), got {'x'.join(map(str, x.shape[1:]))}."
        )
