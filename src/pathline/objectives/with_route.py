"""A loss in which some tokens skip blocks: one route a batch, for all calls of the network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pathline.types import PLAIN_CALL, Batch, Call, Cond, Output, Route

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def with_route(loss: Loss, sample: Callable[[Tensor, torch.Generator], Route] | None) -> Loss:
    """The loss with a route sampled from its rng; the loss itself if `sample` is None.

    sample: (x1, rng) -> Route, see `token_routing.route_sampler`. All calls of the network in one
    loss have the same route, so that a derivative is of the function that is trained. A call with
    fewer rows than the batch takes the route of its last rows, as mean flow does.
    """
    if sample is None:
        return loss

    def routed_loss(
        network: Callable[..., Output],
        batch: Batch,
        rng: torch.Generator,
        *rest: Any,
        **options: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # One route for all calls of this loss, so that a derivative is of the trained function.
        route = sample(batch.x1, rng)

        def routed(x: Tensor, t: Tensor, cond: Cond, call: Call = PLAIN_CALL) -> Output:
            return network(x, t, cond, call._replace(route=route.last(len(x))))

        return loss(routed, batch, rng, *rest, **options)

    return routed_loss
