"""What settings become: the parts of a run, and the sampler that images are sampled with."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pathline.backbones.network import Network
from pathline.flow.guidance import Push
from pathline.flow.paths import Path
from pathline.flow.walks import States
from pathline.types import Codec, Cond, Facts, Field, Objective, Point, Text


class Parts(NamedTuple):
    """A run put together: everything training and drawing need, on the CPU, untrained."""

    facts: Facts
    codec: Codec
    text: Text
    network: Network
    objective: Objective
    path: Path
    draw: Callable[[Tensor, Cond, torch.Generator], Point]  # training points
    draw_at: Callable[[float], Callable[[Tensor, Cond, torch.Generator], Point]]  # at a fixed time
    criterion: Callable
    push: Push | None = None  # of a contrastive term, once it is measured

    def shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C H W] of x1 for pictures of this (height, width); None: the size most trained on.

        Raises ValueError for a size that the codec or the backbone rules out.
        """
        f, codec = self.facts, self.codec
        height, width = size or (f.height, f.width)
        if size and size != (f.height, f.width) and not self.network.has("any_size"):
            raise ValueError(
                f"This run's backbone knows the places of {f.height}x{f.width} pictures alone and "
                f"can't draw {height}x{width}; stream_dit and cross_dit draw other sizes."
            )
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"{height}x{width} can't be drawn: both must be multiples of {codec.factor}, the "
                "pixels that a latent position of this codec stands for."
            )
        return codec.channels, height // codec.factor, width // codec.factor


class Sampler(NamedTuple):
    """How a picture is drawn from a field."""

    # (field, x, noise, time that x is of: 0, *, predicts_x1=False: the field is read from x1)
    walk: Callable[..., States]
    guide: Callable[[Field, Field, Push | None], Field]  # (field, the other one, the run's push)
    other: Literal["null", "weak", "null_without_route"]  # whose field is the other one
    needs: Sequence[tuple[str, str]]  # (row, need) of solver, guidance and sharing
    # times at which a ddt's encoder runs, from how alike it finds any two steps; None: always
    share: Callable[[Callable[[], Tensor]], Sequence[float]] | None
