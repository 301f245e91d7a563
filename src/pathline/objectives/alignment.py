"""Alignment with a frozen vision encoder (REPA, arXiv 2410.06940; iREPA, arXiv 2512.10794)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pathline.ranges import NotNegative, Share, Width
from pathline.types import PLAIN_CALL, Batch, Call, Cond, Output, Point

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def alignment(
    point: Point,
    out: Output,
    *,
    projector: Literal["conv", "mlp"] = "conv",  # noqa: ARG001
    width: Width = 2048,  # noqa: ARG001
    standardise: Share = 0.6,
    until: NotNegative = 0,  # noqa: ARG001
) -> Float[Tensor, " b"] | None:
    """One minus the cosine between projected hidden states and a frozen encoder's tokens.

    Wants vision=encoder. projector: conv (iREPA), or mlp of this width (REPA). standardise: share
    of a picture's mean that is taken from its features, before all are brought to one spread
    (iREPA); 0: as they are (REPA). until: updates after which the term ends and the encoder rests;
    0: never. None where the batch has no features.
    """
    if point.features is None:
        return None
    if out.projected is None:
        raise ValueError("The batch has features to align with, but this network has no projector.")
    # The encoder's grid is brought to the backbone's; float32, as small cosines are lost in bf16.
    rows, columns = out.projected.shape[2:]
    aim = fitted(point.features.float(), (rows, columns))
    aim = standardised(aim, standardise) if standardise else aim
    return (1 - F.cosine_similarity(out.projected.float(), aim, dim=1)).flatten(1).mean(1)


def fitted(features: Float[Tensor, "b e i j"], grid: tuple[int, int]) -> Float[Tensor, "b e h w"]:
    """Features on another grid over the same picture: smoothed where it is coarser."""
    if features.shape[2:] == grid:
        return features
    return F.interpolate(features, grid, mode="bilinear", antialias=True)


def standardised(features: Float[Tensor, "b e i j"], share: float) -> Float[Tensor, "b e i j"]:
    """Each channel less this share of its mean over the picture, by its spread there."""
    mean = features.mean((2, 3), keepdim=True)
    return (features - share * mean) / (features.std((2, 3), correction=0, keepdim=True) + 1e-6)


def with_features(loss: Loss) -> Loss:
    """The loss of a network with a projector: its terms get the features of the batch, if any.

    Hidden states are projected in passes that are trained, not in those that compute a target.
    """

    def loss_with_features(
        network: Callable[..., Output],
        batch: Batch,
        rng: torch.Generator,
        draw: Callable[..., Point],
        criterion: Callable[[Point, Output], tuple[Tensor, dict[str, Tensor]]],
        **options: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # The term returns None without features, so no hidden states need to be projected.
        if batch.features is None:
            return loss(network, batch, rng, draw, criterion, **options)
        # Validation runs without gradients as a whole; a target's passes do so within training.
        in_training = torch.is_grad_enabled()

        def projecting(x: Tensor, t: Tensor, cond: Cond, call: Call = PLAIN_CALL) -> Output:
            project = torch.is_grad_enabled() == in_training
            return network(x, t, cond, call._replace(project=project))

        # Features travel in the point, so that a term needs no batch.
        def criterion_with_features(point: Point, out: Output) -> tuple[Tensor, dict[str, Tensor]]:
            return criterion(point._replace(features=batch.features), out)

        return loss(projecting, batch, rng, draw, criterion_with_features, **options)

    return loss_with_features
