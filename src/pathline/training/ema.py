"""Exponential moving averages of a network's weights, in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """One average of a network's trainable weights.

    The decay is ramped up, min(decay, (1 + n) / (10 + n)) at the n-th update, so that a short run's
    average is not its first weights. Averages stand on the weights' own device and layout.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"An EMA decay of {decay} was asked for; it lies in [0, 1).")
        self.decay = decay
        self.weights = {
            name: p.detach().float().clone()
            for name, p in network.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        """Take in the weights after update number n, counted from 0."""
        decay = min(self.decay, (1 + n) / (10 + n))
        live = [p.detach().float() for p in network.parameters() if p.requires_grad]
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), live, n)

    @contextmanager
    def lent_to(self, network: nn.Module) -> Iterator[None]:
        """The network wears the average inside the block and has its own weights again after it."""
        live = {name: p for name, p in network.named_parameters() if name in self.weights}
        own = {name: p.detach().clone() for name, p in live.items()}
        _wear(live, self.weights)
        try:
            yield
        finally:
            _wear(live, own)

    def state(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])


@torch.no_grad()
def _wear(live: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> None:
    for name, p in live.items():
        p.copy_(weights[name])
