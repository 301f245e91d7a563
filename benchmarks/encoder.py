"""A small vision encoder of transformers, taught here: what alignment is tried with offline.

    python benchmarks/encoder.py digits --out FOLDER

A ViT learns the classes of a run's own training pictures by the mean of its patch tokens, as many
as the run's backbone has. So it tells a generator nothing that its labels and pictures do not hold;
a published encoder (DINOv2, SigLIP 2) has seen more. Prints how many of the held-out pictures it
names right.
"""

import argparse
import json
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from pathline.assemble import assemble
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.runs.dataset import Dataset
from pathline.runs.feed import load_data
from pathline.vision.encoder import PROCESSOR

UPDATES, BATCH, RATE = 600, 128, 1e-3
WIDTH, DEPTH, HEADS = 96, 4, 3
MEAN = STD = 0.5  # of pixels in [0, 1]
MOST = 2_000  # held-out pictures that it is asked about


class Classifier(nn.Module):
    """The encoder, and classes by the mean of its patch tokens."""

    def __init__(self, side: int, patch: int, classes: int) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=side,
            patch_size=patch,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=2 * WIDTH,
        )
        self.encoder = ViTModel(config)
        self.classes = nn.Linear(WIDTH, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.float().expand(-1, 3, -1, -1) / 255 - MEAN) / STD
        return self.classes(self.encoder(x).last_hidden_state[:, 1:].mean(1))


def data_of(run: Run) -> Dataset:
    run, facts, data_for = load_data(run, None, Console(quiet=True))
    return data_for(assemble(run, facts))


def teach(run: Run, folder: Path) -> float:
    """Write the encoder to the folder as transformers does; its share of right held-out names."""
    data = data_of(run)
    assert data.labels is not None, "classes are what it learns"
    train, held = data.train, data.held[:MOST]
    if not len(held):  # a preset that holds none out
        train, held = data.train[MOST:], data.train[:MOST]
    torch.manual_seed(0)
    network = Classifier(run.data.size, run.backbone.options["patch"], len(data.names))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        rows = train[torch.randint(len(train), (BATCH,))]
        loss = F.cross_entropy(network(data.pixels(rows)), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    network.encoder.save_pretrained(folder)
    pixels = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    (folder / PROCESSOR).write_text(json.dumps(pixels), encoding="utf-8")
    with torch.no_grad():
        named = network.eval()(data.pixels(held)).argmax(1)
    return (named == data.labels[held]).double().mean().item()


def taught(run: Run) -> Path:
    """The folder of an encoder for runs on this data, taught where no run before did so."""
    key = sha256(repr((run.data, run.backbone.options["patch"])).encode()).hexdigest()
    folder = Path(gettempdir()) / f"pathline-encoder-{key[:16]}"
    if not (folder / PROCESSOR).exists():
        teach(run, folder)
    return folder


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("--settings", nargs="+", default=[], help="of the run, key=value")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    right = teach(read(options.preset, (), options.settings).run, options.out)
    print(f"{options.out}: {right:.1%} of held-out pictures named right")


if __name__ == "__main__":
    main()
