"""Optimizers by role, and learning-rate schedules as functions of the update."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import nn

from pathline.nn.blocks import SwiGLU
from pathline.ranges import NotNegative, NotNegativeFloat, PositiveFloat, Share, ShareBelowOne
from pathline.training.muon import Muon, Together

# Role of a child module or parameter by its name, numbers at the end left out. The outermost child
# of a name that is in the table decides; the role of all others is `other`.
ROLES = {
    **dict.fromkeys(("words", "text", "text_pooled", "text_out"), "text"),
    **dict.fromkeys(("modulation", "shared"), "modulation"),
    **dict.fromkeys(("norm", "norm_in", "norm_out"), "norm"),
    **dict.fromkeys(("attention", "cross_attention"), "attention"),
    **dict.fromkeys(("patch", "time", "inner_time", "interval", "label_table"), "embed"),
    **{name: name for name in ("projector", "final", "mlp")},
}
TABLES = ("table", "label_table", "positions")  # without weight decay
MATRIX_ROLES = ("attention", "mlp")
FUSED = {"qkv": 3, "kv": 2}  # matrices that lie above one another in one
Named = Sequence[tuple[str, nn.Parameter]]


def decayed(name: str, p: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for biases, gains, tables of positions, words or labels."""
    return p.dim() >= 2 and not any(part in TABLES for part in name.split("."))


def role(name: str) -> str:
    """The role of a parameter of this name."""
    parts = (part.rstrip("0123456789") for part in name.split("."))
    return next((ROLES[part] for part in parts if part in ROLES), "other")


def roles(network: nn.Module) -> dict[str, list[str]]:
    """The names of the trainable parameters by role, each once, in the network's order."""
    by_role: dict[str, list[str]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            by_role.setdefault(role(name), []).append(name)
    return by_role


def partition(network: nn.Module) -> dict[str, dict[str, list[str]]]:
    """What `muon` gives to which optimizer: "muon" and "adamw" -> role -> names."""
    live = dict(network.named_parameters())
    parts: dict[str, dict[str, list[str]]] = {"muon": {}, "adamw": {}}
    for kind, names in roles(network).items():
        for name in names:
            optimizer = "muon" if _orthogonalised(name, live[name]) else "adamw"
            parts[optimizer].setdefault(kind, []).append(name)
    return parts


def describe(network: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """One line: how many weights of which role each optimizer has."""
    live = dict(network.named_parameters())
    split = isinstance(optimizer, Together)
    parts = partition(network) if split else {type(optimizer).__name__.lower(): roles(network)}
    phrases = []
    for name, by_role in parts.items():
        counts = {kind: sum(live[n].numel() for n in names) for kind, names in by_role.items()}
        listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
        phrases.append(f"{name}: {listed or 'nothing'}")
    return "; ".join(phrases)


def _orthogonalised(name: str, p: nn.Parameter) -> bool:
    """Matrices of attention and feed-forward in blocks; adapters' are too thin for it."""
    return p.dim() == 2 and role(name) in MATRIX_ROLES and "lora" not in name


def _parts(network: nn.Module) -> Mapping[str, int]:
    """Name of a fused matrix -> of how many it is made."""
    # Gate and value of a SwiGLU lie above one another in one matrix.
    gated = {
        f"{name}.up.weight": 2
        for name, module in network.named_modules()
        if isinstance(module, SwiGLU)
    }
    named = (name for name, _ in network.named_parameters())
    layers = {name: name.split(".")[-2:-1] for name in named if name.endswith(".weight")}
    return gated | {name: FUSED[at[0]] for name, at in layers.items() if at and at[0] in FUSED}


def adamw(
    network: nn.Module,
    *,
    lr: PositiveFloat = 1e-4,
    beta1: ShareBelowOne = 0.9,
    beta2: ShareBelowOne = 0.999,
    weight_decay: NotNegativeFloat = 0.0,
    eps: PositiveFloat = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), fused."""
    named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    return _adamw(named, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps)


def _adamw(named: Named, *, weight_decay: float, **settings) -> torch.optim.AdamW:
    groups = [
        {"params": [p for n, p in named if decayed(n, p)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, fused=True, **settings)


def muon(
    network: nn.Module,
    *,
    lr: PositiveFloat = 1e-4,
    other_lr: PositiveFloat | None = None,
    momentum: ShareBelowOne = 0.95,
    beta1: ShareBelowOne = 0.9,
    beta2: ShareBelowOne = 0.999,
    weight_decay: NotNegativeFloat = 0.0,
    eps: PositiveFloat = 1e-8,
) -> torch.optim.Optimizer:
    """Muon (arXiv 2502.16982) for the matrices of attention and feed-forward, AdamW for the rest.

    lr: of the matrices, scaled so that AdamW's rates carry over. other_lr: of the rest; null: lr.
    momentum: of the matrices. beta1, beta2, eps: of the rest. Matrices that were fused (q, k, v;
    gate and value) are orthogonalised one by one.
    """
    # Matrices of blocks, grouped by how many are stacked in one.
    live, parts = dict(network.named_parameters()), _parts(network)
    matrices, rest = ([*chain(*kinds.values())] for kinds in partition(network).values())
    groups = [
        {"params": [live[n] for n in matrices if parts.get(n, 1) == count], "parts": count}
        for count in sorted({parts.get(n, 1) for n in matrices})
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(
            Muon(
                groups,
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    # Everything else: embeddings, biases, gains, the last layer.
    if rest:
        settings = {"weight_decay": weight_decay, "betas": (beta1, beta2), "eps": eps}
        lr = lr if other_lr is None else other_lr
        optimizers.append(_adamw([(n, live[n]) for n in rest], lr=lr, **settings))
    return Together(optimizers)


def _warm(update: int, warmup: int) -> float:
    return min(1.0, (update + 1) / warmup) if warmup else 1.0


def constant(update: int, updates: int, *, warmup: NotNegative = 0) -> float:
    """Share of the learning rate at `update`, counted from 0, of so many: level after warm-up."""
    del updates  # level, however many there are
    return _warm(update, warmup)


def linear(update: int, updates: int, *, warmup: NotNegative = 0, floor: Share = 0.0) -> float:
    """Falls in a straight line to `floor` at the last update."""
    return _warm(update, warmup) * (1 - (1 - floor) * _elapsed(update, updates, warmup))


def cosine(update: int, updates: int, *, warmup: NotNegative = 0, floor: Share = 0.0) -> float:
    """Falls along half a cosine to `floor` at the last update (arXiv 1608.03983)."""
    fall = (1 - math.cos(math.pi * _elapsed(update, updates, warmup))) / 2
    return _warm(update, warmup) * (1 - (1 - floor) * fall)


def _elapsed(update: int, updates: int, warmup: int) -> float:
    """Share of the updates after warm-up that is over."""
    return min(max((update - warmup) / max(updates - 1 - warmup, 1), 0.0), 1.0)


OPTIMIZERS = {"adamw": adamw, "muon": muon}
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}
