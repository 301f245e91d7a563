"""Numbers of small cross_dits and stream_dits with weights that no random generator had a hand in.

Run `python tests/golden/text_dits.py` to write them anew, after a change that is meant to.
"""

import json
from pathlib import Path

import torch
from torch import nn

from pathline.backbones.table import BACKBONES
from pathline.types import Call, Cond, Frame

FILE = Path(__file__).with_suffix(".json")
CASES = {
    "cross": ("cross_dit", {}),
    "cross, other settings": (
        "cross_dit",
        {"mlp": "swiglu", "qk_norm": True, "takes_r": True, "extrapolate": "none"},
    ),
    "stream": ("stream_dit", {"positions": "rope"}),
    "stream, other settings": (
        "stream_dit",
        {"positions": "both", "modulation": "lowrank", "rank": 2, "extrapolate": "ntk"},
    ),
}


def wave(*shape: int, speed: float) -> torch.Tensor:
    """A tensor of sines of its own index."""
    count = torch.tensor(shape).prod()
    return torch.sin(torch.arange(count, dtype=torch.float64) * speed).float().view(shape)


def fill(network: nn.Module) -> None:
    with torch.no_grad():
        for index, p in enumerate(network.parameters()):
            p.copy_(0.3 * wave(*p.shape, speed=0.7 + 0.01 * index))


def numbers() -> dict[str, list[float]]:
    """For each case, at the frame's size and at a larger one: output values and mean squares."""
    found = {}
    for case, (name, settings) in CASES.items():
        frame = Frame(2, 4, 8, classes=3, text_width=6, pooled_width=5)
        network = BACKBONES[name](frame, depth=2, width=32, heads=2, patch=2, **settings)
        fill(network)
        mask = torch.tensor([[True, True, False], [True, True, True]])
        labels, pooled = torch.tensor([0, 3]), wave(2, 5, speed=0.6)
        cond = Cond(wave(2, 3, 6, speed=0.9), mask, pooled, labels)
        t = torch.tensor([0.25, 0.75])
        r = torch.tensor([0.5, 1.0]) if network.shape.takes_r else None
        for size in ((4, 8), (8, 12)):
            out = network(wave(2, 2, *size, speed=0.37), t, cond, Call(r))
            squares = [out.value.square().mean().item(), out.hidden.square().mean().item()]
            key = f"{case}, {size[0]}x{size[1]}"
            found[key] = out.value.flatten()[:6].tolist() + squares
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n")
