"""What settings are assembled into: the parts of a run, and a sampler of images."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pathline.backbones.network import Network
from pathline.flow.guidance import Push
from pathline.flow.paths import PATHS, Path
from pathline.flow.walks import States
from pathline.types import Codec, Cond, Facts, Field, Objective, Point, Text


class Parts(NamedTuple):
    """An assembled run: everything that training and sampling need, untrained and on the CPU."""

    facts: Facts
    codec: Codec
    text: Text
    network: Network
    objective: Objective
    path: Path
    draw: Callable[[Tensor, Cond, torch.Generator], Point]  # training points
    draw_at: Callable[[float], Callable[[Tensor, Cond, torch.Generator], Point]]  # at a fixed time
    criterion: Callable
    push: Push | None = None  # of a contrastive loss term, once it is measured

    def shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """[C H W] of x1 for images of (height, width); None: the most frequent training size.

        Raises ValueError for a size that the backbone or the codec does not support.
        """
        f, codec = self.facts, self.codec
        height, width = size or (f.height, f.width)
        if size and size != (f.height, f.width) and not self.network.has("any_size"):
            raise ValueError(
                f"size={height}x{width} is wrong because the position embeddings of this run's "
                f"backbone are of {f.height}x{f.width} images. Generate at {f.height}x{f.width}, "
                "or train with backbone=stream_dit or cross_dit, which can generate other sizes."
            )
        if height % codec.factor or width % codec.factor:
            raise ValueError(
                f"size={height}x{width} is wrong because this codec downsamples by "
                f"{codec.factor}. Use multiples of {codec.factor}."
            )
        return codec.channels, height // codec.factor, width // codec.factor


class Sampler(NamedTuple):
    """How an image is sampled from a velocity field: solver, guidance, encoder sharing."""

    # (field, x, noise, time of x: 0, *, predicts_x1=False: the field comes from x1 predictions)
    walk: Callable[..., States]
    guide: Callable[[Field, Field, Push | None], Field]  # (field, negative field, the run's push)
    other: Literal["null", "weak", "null_without_route"]  # what computes the negative field
    needs: Sequence[tuple[str, str]]  # (row, need): what solver, guidance, sharing need of parts
    # times at which a ddt's encoder runs, from the similarity of its steps; None: at every step
    share: Callable[[Callable[[], Tensor]], Sequence[float]] | None


MUST_MATCH: dict[str, Callable[[Parts], object]] = {  # in a run and its weaker one (autoguidance)
    "codec": lambda parts: parts.codec.id,
    "normalisation": lambda parts: [
        [round(x, 3) for x in values.tolist()] for values in (parts.codec.mean, parts.codec.std)
    ],
    "path": lambda parts: next(name for name, path in PATHS.items() if path is parts.path),
    "text encoder": lambda parts: parts.text.id,
    "shape of data": lambda parts: parts.shape(),
    "list of classes": lambda parts: parts.facts.names,
    "list of words": lambda parts: parts.facts.words,
}
