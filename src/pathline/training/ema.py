"""Moving averages of a network's weights, in float32."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Weights = dict[str, Tensor]


class Ema:
    """One average of a network's trainable weights, on their own device and in their layout.

    decay: share that the average keeps of itself at the n-th update, from 0. sigma_rel: its length
    as a share of the run, if that is constant (`power_ema.py`).
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        decay: Callable[[int], float],
        sigma_rel: float | None = None,
    ) -> None:
        self.name, self.decay, self.sigma_rel = name, decay, sigma_rel
        self.weights = copied(network)

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        """Update the average with the weights after update n, counted from 0."""
        # float32: in bf16 a change of 1 − decay would be rounded away.
        live = [p.detach().float() for p in network.parameters() if p.requires_grad]
        get_ema_multi_avg_fn(self.decay(n))(list(self.weights.values()), live, 0)

    def lent_to(self, network: nn.Module) -> AbstractContextManager[None]:
        return lent(self.weights, network)

    def state(self) -> Weights:
        return dict(self.weights)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        put(self.weights, state)


def exponential(network: nn.Module, decay: float) -> Ema:
    """The usual average. The decay is ramped up, min(decay, (1 + n) / (10 + n)) at the n-th update,
    so that the average of a short run is not its initial weights."""
    return Ema(network, f"ema-{decay}", lambda n: min(decay, (1 + n) / (10 + n)))


def copied(network: nn.Module) -> Weights:
    """A float32 copy of every trainable weight, on its own device and in its own layout."""
    named = network.named_parameters()
    return {name: p.detach().float().clone() for name, p in named if p.requires_grad}


@contextmanager
def lent(weights: Mapping[str, Tensor], network: nn.Module) -> Iterator[None]:
    """Temporarily load `weights` into the network; restore its weights on exit."""
    live = {name: p for name, p in network.named_parameters() if name in weights}
    # Copies, as `put` writes in place: optimizer and wrappers hold these very tensors.
    before = {name: p.detach().clone() for name, p in live.items()}
    put(live, weights)
    try:
        yield
    finally:
        put(live, before)


@torch.no_grad()
def put(live: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into `live`, by name. Raises KeyError for a name that is missing."""
    for name, p in live.items():
        p.copy_(weights[name])
