"""What every backbone does with what it is given: refuse misfits, embed what steers, start."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from pathline.nn import blocks
from pathline.nn.modulation import LowRank, Offset, Own
from pathline.types import Cond, Frame


@runtime_checkable
class Backbone(Protocol):
    """The parts that the functions here look at; a part that a network lacks is None."""

    frame: Frame
    time: blocks.TimeEmbedding
    span: blocks.TimeEmbedding | None  # r − t, of a network that takes a later time
    label_table: nn.Embedding | None
    text_pooled: blocks.TextIn | None
    shared: nn.Linear | None  # the projection that all blocks' modulations share

    @property
    def shape(self) -> Any: ...

    @property
    def final(self) -> Any: ...

    def modules(self) -> Iterator[nn.Module]: ...


class Unread(nn.Module):
    """In place of a last layer that nobody reads: no weights, zeros."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Float[Tensor, "b l d"], *_: Tensor) -> Float[Tensor, "b l e"]:
        return x.new_zeros(*x.shape[:2], self.outputs)


def steer(
    network: Backbone, t: Float[Tensor, " b"], cond: Cond, r: Float[Tensor, " b"] | None
) -> Float[Tensor, "b d"]:
    """What every modulation reads: time, span, label and pooled text, embedded and summed."""
    signal = network.time(t)
    if network.span is not None and r is not None:
        signal = signal + network.span(r - t)
    if network.label_table is not None:
        signal = signal + network.label_table(cond.labels)
    if network.text_pooled is not None and cond.pooled is not None:
        signal = signal + network.text_pooled(cond.pooled[:, None])[:, 0].to(signal.dtype)
    return signal


def run(block: nn.Module, checkpoint: bool, *inputs: Tensor | None) -> Tensor:
    """The block's answer; with `checkpoint` it is computed again in the backward pass."""
    if checkpoint and torch.is_grad_enabled():
        return recompute(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


def initialise(network: Backbone) -> None:
    """DiT's published start: Xavier everywhere, small embeddings, nothing let through."""
    assert isinstance(network, nn.Module)
    blocks.xavier(network)
    for module in network.modules():
        if isinstance(module, blocks.TimeEmbedding):
            nn.init.normal_(module.up.weight, std=0.02)
            nn.init.normal_(module.down.weight, std=0.02)
    if network.label_table is not None:
        nn.init.normal_(network.label_table.weight, std=network.shape.label_std)
    if network.shared is not None:
        nn.init.zeros_(network.shared.weight)
    for module in network.modules():
        if isinstance(module, Own | LowRank | Offset):
            module.zero()
    nn.init.zeros_(network.final.linear.weight)


def refuse_misfit(
    network: Backbone, x: Tensor, cond: Cond, r: Tensor | None, *, any_size: bool = False
) -> None:
    """Raises ValueError if the inputs are not what the network was built for.

    any_size: height and width need not be the frame's, but multiples of the patch.
    """
    _refuse_size(network, x, any_size)
    if (r is not None) != network.shape.takes_r:
        raise ValueError(
            "This network was built with takes_r=true and needs the later time r."
            if r is None
            else "This network knows one time only; to learn an average velocity from t to r, "
            "build it with takes_r=true."
        )
    for name, given, wanted in (
        ("labels", cond.labels, network.frame.classes),
        ("tokens", cond.tokens, network.frame.text_width),
        ("pooled", cond.pooled, network.frame.pooled_width),
    ):
        if (given is not None) != bool(wanted):
            state = f"has no {name}, but this network was built with them"
            if not wanted:
                state = f"has {name}, but this network was built without"
            raise ValueError(f"The condition {state}.")


def _refuse_size(network: Backbone, x: Tensor, any_size: bool) -> None:
    frame, patch = network.frame, network.shape.patch
    channels, height, width = x.shape[1:]
    if any_size and channels != frame.channels:
        raise ValueError(
            f"This network was built for pictures of {frame.channels} channels, got {channels}."
        )
    if any_size and (height % patch or width % patch):
        raise ValueError(blocks.misfit(height, width, patch))
    if not any_size and x.shape[1:] != (frame.channels, frame.height, frame.width):
        raise ValueError(
            f"This network was built for pictures of {frame.channels}x{frame.height}x{frame.width} "
            f"(channels, height, width), got {'x'.join(map(str, x.shape[1:]))}."
        )
