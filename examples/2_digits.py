"""Train the digits preset and draw a grid of every class.

One sees the run's settings at work: a falling loss on the screen, then `grid.png`, one class a row,
each row beginning with a real digit. Printed is how many of the drawn digits a classifier reads as
the class that was asked for, beside how many real ones, which it never saw, it reads rightly.
`pathline train digits` and `pathline generate RUN --class-grid` do the same from the command line.
"""

import argparse
from pathlib import Path

import torch
from sklearn.svm import SVC

from pathline.assemble import sampler
from pathline.config.resolve import read
from pathline.console import open_console
from pathline.data.sources.rows import digits
from pathline.evaluation.training import run_training
from pathline.generate import sample_images
from pathline.images import sheet
from pathline.tables import TABLES

EACH = 10  # drawn of each class
parser = argparse.ArgumentParser(description="Train on handwritten digits and draw each class.")
parser.add_argument("--updates", type=int, default=800)
parser.add_argument("--out", type=Path, help="the run folder; by default runs/digits-1, -2, …")
parser.add_argument("--set", nargs="*", default=[], help="settings, such as backbone.width=64")
asked = parser.parse_args()

# Settings: the preset with these keys laid over it, as on the command line.
settings = read("digits", (), [f"train.updates={asked.updates}", *asked.set], tables=TABLES)
run = settings.run

# Training: everything that it writes lies in the run folder.
trained = run_training(run, asked.out, None, open_console())

# Drawing: one picture for each label and its seed, with the averaged weights.
labels = [label for label in range(10) for _ in range(EACH)]
seeds = list(range(len(labels)))
with trained.team.players[0].emas[0].lent_to(trained.team.players[0].network):
    drawn = sample_images(trained.parts, labels, seeds, sampler(run.sample, trained.parts.path))

# A classifier that learnt one half of the real digits judges the other half and the drawn ones.
source = digits()
examples = [source.read(row) for row in range(source.count)]
real = torch.stack([example.image for example in examples])
classes = torch.tensor([example.label for example in examples])
half = source.count // 2
judge = SVC(C=10).fit(real[:half].flatten(1) / 127.5 - 1, classes[:half])
on_real = judge.score(real[half:].flatten(1) / 127.5 - 1, classes[half:])
on_drawn = judge.score(drawn.flatten(1) / 127.5 - 1, labels)
print(f"read rightly: {on_drawn:.2f} of {len(drawn)} drawn, {on_real:.2f} of unseen real digits")

rows, titles = [], []
for label in range(10):
    first_real = real[classes == label][:1]
    rows += [first_real, drawn[label * EACH : (label + 1) * EACH]]
    titles += [f"real {label}", *[str(label)] * EACH]
sheet(torch.cat(rows), titles, columns=1 + EACH).save(trained.folder / "grid.png")
print(f"look at {trained.folder / 'grid.png'}")
