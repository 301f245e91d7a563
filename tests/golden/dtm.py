"""Numbers of small heads with weights that no random generator had a hand in.

Run `python tests/golden/dtm.py` to write them anew, after a change that is meant to change them.
"""

import json
from pathlib import Path

import torch

from pathline.backbones.dit import dit
from pathline.backbones.network import Network
from pathline.backbones.transition_head import build_head
from pathline.types import Call, Cond, Frame

FILE = Path(__file__).with_suffix(".json")
CASES = {
    "token": {},
    "group": {"group": 2, "width": 32, "depth": 2},
    "meeting": {"kind": "transformer", "group": 2, "width": 12, "depth": 2},
}


def wave(*shape: int, speed: float) -> torch.Tensor:
    """A tensor of sines of its own index."""
    count = torch.tensor(shape).prod()
    return torch.sin(torch.arange(count, dtype=torch.float64) * speed).float().view(shape)


def numbers() -> dict[str, list[float]]:
    """For each case: the first values of the last draw, and the mean square of all."""
    found = {}
    for name, settings in CASES.items():
        frame = Frame(2, 4, 8, classes=3)
        backbone = dit(frame, depth=1, width=16, heads=2, patch=2)
        network = Network(backbone, head=build_head(backbone, frame, **settings))
        with torch.no_grad():
            for index, p in enumerate(network.parameters()):
                p.copy_(0.3 * wave(*p.shape, speed=0.7 + 0.01 * index))
        cond, t = Cond(labels=torch.tensor([0, 3])), torch.tensor([0.25, 0.75])
        side = 2 * settings.get("group", 1)
        s = (wave(6, 4 // side, 8 // side, speed=0.5) + 1) / 2
        x, y = wave(2, 2, 4, 8, speed=0.37), wave(6, 2, 4, 8, speed=0.41)
        value = network(x, t, cond, Call(y=y, s=s)).value
        found[name] = [*value[-1].flatten()[:6].tolist(), value.square().mean().item()]
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n")
