"""A loss whose network leaves tokens out: the route is drawn here and given to every call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pathline.nn.token_select import Route
from pathline.types import Batch, Output

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def routed(loss: Loss, draw: Callable[[Tensor, torch.Generator], Route] | None) -> Loss:
    """The loss with one route a batch, from its rng; without `draw`, the loss as it is.

    draw: (x1, rng) -> Route. All calls of the network in one loss take the same tokens, so that a
    derivative is of the function that learns; a call on fewer rows is on the last ones of the
    batch, as mean flow's are.
    """
    if draw is None:
        return loss

    def learn(
        network: Callable[..., Output], batch: Batch, rng: torch.Generator, *more: Any, **ways: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        route = draw(batch.x1, rng)

        def call(x: Tensor, *inputs: Any, **named: Any) -> Output:
            return network(x, *inputs, route=route.last(len(x)), **named)

        return loss(call, batch, rng, *more, **ways)

    return learn
