"""Muon for matrices that may be several in one and sharded; several optimizers as one."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz
from torch.overrides import TorchFunctionMode

from pathline.training.distributed import placed, whole

Group = dict[str, Any]


class Muon(torch.optim.Muon):
    """torch's Muon, orthogonalising each of the `parts` of a fused matrix by itself.

    Momentum stays sharded as the parameter is; a sharded update is gathered, matrix by matrix, for
    the orthogonalisation, which every rank does. Raises ValueError for what is not 2-D.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, gradient: Tensor, group: Group) -> None:
        """torch/optim/_muon.py:_single_tensor_muon for one matrix."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = placed(orthogonal(whole(direction), group).to(p.dtype), p)
        # Decoupled weight decay, at the rate before it is adjusted to the shape.
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update)


def orthogonal(direction: Tensor, group: Group) -> Tensor:
    """The step along `direction` [rows columns]: each part orthogonalised, times its rate."""
    newton = (group["ns_coefficients"], group["ns_steps"], group["eps"])
    # q, k and v stand in one matrix but are three maps: each is orthogonalised by itself.
    pieces = direction.chunk(group.get("parts", 1))
    rates = [_adjust_lr(group["lr"], group["adjust_lr_fn"], piece.shape) for piece in pieces]
    with Unrounded() if direction.device.type == "cpu" else nullcontext():
        moved = [_zeropower_via_newtonschulz(piece, *newton) for piece in pieces]
    moved = [piece.to(direction.dtype) * rate for piece, rate in zip(moved, rates, strict=True)]
    return torch.cat(moved)


class Unrounded(TorchFunctionMode):
    """Newton-Schulz converts to bf16, which most CPUs multiply far slower than float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.bfloat16:
            return args[0].float().clone()  # the caller changes the result in place
        return func(*args, **(kwargs or {}))


class Together(torch.optim.Optimizer):
    """Several optimizers as one: one list of groups, one state, one step."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.counts = [len(optimizer.param_groups) for optimizer in optimizers]
        super().__init__([g for optimizer in optimizers for g in optimizer.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = torch.enable_grad()(closure)() if closure else None
        start = 0
        for optimizer, count in zip(self.optimizers, self.counts, strict=True):
            # assigned each time, because load_state_dict replaces both
            optimizer.param_groups = self.param_groups[start : start + count]
            optimizer.state = self.state
            optimizer.step()
            start += count
        return loss
