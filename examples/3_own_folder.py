"""Train on a folder of pictures with captions, then draw from a caption.

Without --pictures it makes a folder of 400 drawings, a disc or a ring of some colour on a ground of
another, each with its caption in a text file of the same name. One sees the folder read, a falling
loss, and a sheet of drawings for two captions. No drawing of the folder is a green ring on blue:
after 800 updates its colours come out right, its ring as a disc.
`pathline train FOLDER` and `pathline generate RUN "a red disc on white"` do the same.
"""

import argparse
from itertools import product
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from pathline.recipes.generate import generate
from pathline.recipes.train import train
from pathline.runs.folder import fresh

COLOURS = ("red", "green", "blue", "white")
NEVER = "a green ring on blue"
PROMPTS = ("a red disc on white", NEVER)

parser = argparse.ArgumentParser(description="Train on your own pictures with captions.")
parser.add_argument("--pictures", type=Path, help="a folder of your own; else one is made")
parser.add_argument("--prompts", nargs="*", default=PROMPTS, help="in words of your captions")
parser.add_argument("--updates", type=int, default=800)
parser.add_argument("--out", type=Path, help="a new folder; by default runs/own-folder-1, …")
parser.add_argument("--set", nargs="*", default=[], help="settings, such as backbone.width=64")
asked = parser.parse_args()


def make(folder: Path, count: int) -> Path:
    """A folder of pictures, each beside a text file of the same name with its caption."""
    folder.mkdir(parents=True)
    kinds = [
        (colour, shape, ground)
        for colour, shape, ground in product(COLOURS, ("disc", "ring"), COLOURS)
        if colour != ground and f"a {colour} {shape} on {ground}" != NEVER
    ]
    chance = Random(0)
    for number in range(count):
        colour, shape, ground = chance.choice(kinds)
        picture = Image.new("RGB", (48, 48), ground)
        x, y, radius = chance.randint(16, 32), chance.randint(16, 32), chance.randint(10, 15)
        box = (x - radius, y - radius, x + radius, y + radius)
        fill = colour if shape == "disc" else None
        ImageDraw.Draw(picture).ellipse(box, fill=fill, outline=colour, width=5)
        picture.save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(
            f"a {colour} {shape} on {ground}\n", encoding="utf-8"
        )
    return folder


out = fresh("own-folder", asked.out)
pictures = asked.pictures or make(out / "pictures", 400)

# Smaller than size=small, for drawings as simple as these.
small = [
    "size=small",
    "data.size=24",
    "backbone.patch=4",
    "backbone.bottleneck=0",
    "backbone.width=128",
]
small += ["backbone.depth=4", "backbone.heads=4", "optimizer.lr=2e-3", "train.ema=[0.99]"]
small += ["train.log_every=50", "train.validate_every=0", "train.sample_every=0"]

settings = [*small, f"train.updates={asked.updates}", *asked.set]
code = train(str(pictures), *settings, out=out / "run")
if code == 0:
    code = generate(out / "run", *asked.prompts, n=4, guidance=2.0, out=out / "drawn")
raise SystemExit(code)
