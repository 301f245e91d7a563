"""Numbers of small DDTs with weights that no random generator had a hand in.

Run `python tests/golden/ddt.py` to write them anew, after a change that is meant to change them.
"""

import json
from pathlib import Path

import torch

from pathline.backbones.ddt import ddt
from pathline.types import Call, Cond, Frame

FILE = Path(__file__).with_suffix(".json")
CASES = {
    "published": {"positions": "rope"},
    "shared": {"modulation": "shared", "bottleneck": 4, "bias": False},
    "lowrank": {
        "modulation": "lowrank",
        "rank": 2,
        "takes_r": True,
        "norm": "layer",
        "mlp": "gelu",
    },
}


def wave(*shape: int, speed: float) -> torch.Tensor:
    """A tensor of sines of its own index."""
    count = torch.tensor(shape).prod()
    return torch.sin(torch.arange(count, dtype=torch.float64) * speed).float().view(shape)


def numbers() -> dict[str, list[float]]:
    """For each case: the first output values, their mean square, and the hidden mean square."""
    found = {}
    for name, settings in CASES.items():
        frame = Frame(2, 4, 8, classes=3, text_width=6)
        network = ddt(frame, depth=2, decoder=1, width=16, heads=2, patch=2, **settings)
        with torch.no_grad():
            for index, p in enumerate(network.parameters()):
                p.copy_(0.3 * wave(*p.shape, speed=0.7 + 0.01 * index))
        mask = torch.tensor([[True, True, False], [True, True, True]])
        cond = Cond(wave(2, 3, 6, speed=0.9), mask, labels=torch.tensor([0, 3]))
        r = torch.tensor([0.5, 1.0]) if network.shape.takes_r else None
        out = network(wave(2, 2, 4, 8, speed=0.37), torch.tensor([0.25, 0.75]), cond, Call(r))
        squares = [out.value.square().mean().item(), out.hidden.square().mean().item()]
        found[name] = out.value.flatten()[:6].tolist() + squares
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n")
