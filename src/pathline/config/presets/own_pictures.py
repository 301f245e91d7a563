"""Presets for a folder of your own pictures, by the size of the training.

Each holds what it takes to train on one folder; a larger one needs a faster machine.
"""

from dataclasses import replace

from pathline.config.pick import Pick, pick
from pathline.config.presets.rows import DATA, EARLY, adamw, cosine, small
from pathline.config.run import Data, Run, Sample, Train
from pathline.config.sections import About

SMALL = Run(
    name="own-small",
    size="small",
    about=About(
        purpose="your own pictures at 64×64 on a CPU, with captions, classes or neither",
        expect="after 1,500 updates a classifier finds the class of 78 % of generated flowers",
        time="0.4 to 0.55 seconds of one core for an update",
        device="two CPU cores",
    ),
    data=Data(source=Pick("auto"), size=64, holdout=0.02, flip=True),
    backbone=small(width=192, depth=4, heads=6, patch=8, bottleneck=96),
    objective=DATA,
    times=EARLY,
    optimizer=adamw(lr=2e-3),
    schedule=cosine(warmup=100),
    train=Train(
        updates=2500,
        batch=32,
        ema=(0.997,),
        log_every=25,
        validate_every=500,
        sample_every=250,
        save_every=250,
    ),
    sample=Sample(solver=Pick("adams2"), steps=20, guidance=pick("cfg", scale=1.5)),
)

MEDIUM = replace(
    SMALL,
    name="own-medium",
    size="medium",
    about=About(
        purpose="your own pictures at 64×64 with a larger network and a longer training",
        device="a fast CPU or a small GPU",
    ),
    backbone=small(width=256, depth=6, heads=8, patch=8, bottleneck=96),
    optimizer=adamw(lr=1e-3),
    train=replace(
        SMALL.train,
        updates=6000,
        batch=48,
        ema=(0.998,),
        log_every=50,
        validate_every=500,
        sample_every=500,
        save_every=500,
    ),
)

LARGE = replace(
    SMALL,
    name="own-large",
    size="large",
    about=About(
        purpose="your own pictures at 64×64 with the largest network and the longest training",
        device="one GPU",
    ),
    backbone=small(width=384, depth=8, heads=6, patch=8, bottleneck=128),
    optimizer=adamw(lr=3e-4),
    schedule=cosine(warmup=200),
    train=Train(updates=20_000, batch=64, ema=(0.999,)),
    sample=replace(SMALL.sample, steps=30),
)

# In the order of their time.
OWN_PICTURES = (SMALL, MEDIUM, LARGE)
