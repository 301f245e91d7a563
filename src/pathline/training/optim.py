"""Optimizers by role, and learning-rate schedules as functions of the update."""

import math

import torch
from torch import nn


def decayed(name: str, p: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for biases, gains, tables of positions, words or labels."""
    return p.dim() >= 2 and not any(part in name for part in ("table", "positions", "embed"))


def adamw(
    network: nn.Module,
    *,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), fused."""
    named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decayed(n, p)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=True)


def _warm(update: int, warmup: int) -> float:
    return min(1.0, (update + 1) / warmup) if warmup else 1.0


def constant(update: int, _: int, *, warmup: int = 0) -> float:
    """Share of the learning rate at `update`, counted from 0, of so many: level after warm-up."""
    return _warm(update, warmup)


def linear(update: int, updates: int, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Falls in a straight line to `floor` at the last update."""
    return _warm(update, warmup) * (1 - (1 - floor) * _way(update, updates, warmup))


def cosine(update: int, updates: int, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Falls along half a cosine to `floor` at the last update (arXiv 1608.03983)."""
    fall = (1 - math.cos(math.pi * _way(update, updates, warmup))) / 2
    return _warm(update, warmup) * (1 - (1 - floor) * fall)


def _way(update: int, updates: int, warmup: int) -> float:
    return min(max((update - warmup) / max(updates - 1 - warmup, 1), 0.0), 1.0)


OPTIMIZERS = {"adamw": adamw}
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}
