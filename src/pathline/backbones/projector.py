"""A projector from hidden states to a frozen vision encoder's features, for training only.

From REPA (arXiv 2410.06940) and iREPA (arXiv 2512.10794).
"""

from typing import Literal

from torch import nn

Projector = Literal["conv", "mlp"]


def build_projector(
    backbone: nn.Module, features: int, *, kind: Projector, width: int
) -> nn.Module:
    """(tokens [B D I J]) -> [B features I J].

    kind: conv, one convolution over neighbours (iREPA), or mlp, three layers on each token, the
    inner ones of `width` (REPA). Raises ValueError for a backbone without tokens.
    """
    tokens = getattr(getattr(backbone, "shape", None), "width", None)
    if tokens is None:
        raise ValueError(
            f"terms.alignment is wrong because {type(backbone).__name__} has no hidden states. Set "
            "another backbone, or leave the term out."
        )
    if kind == "conv":
        return nn.Conv2d(tokens, features, 3, padding=1)
    # REPA's three layers; a 1x1 convolution is a linear layer on each token.
    return nn.Sequential(
        nn.Conv2d(tokens, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, features, 1),
    )
