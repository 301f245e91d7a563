"""Presets that learn pixels. A preset carries its evidence: what it gave, how long, on what."""

from dataclasses import replace

from pathline.config.pick import Pick, pick
from pathline.config.presets.rows import DATA, EARLY, SMALL, VELOCITY, adamw, cosine, small
from pathline.config.run import Data, Run, Sample, Train
from pathline.config.sections import About

DIGITS = Run(
    name="digits",
    about=About(
        purpose="handwritten digits 8×8 by class, from scikit-learn: a whole run in two minutes",
        expect="a classifier reads 98 % of the generated digits; raw-pixel Fréchet distance 0.24",
        time="106 seconds",
        device="two CPU cores",
    ),
    data=Data(source=Pick("digits"), size=8, channels=1, holdout=0.2),
    text=Pick("labels"),
    backbone=SMALL,
    objective=VELOCITY,
    times=pick("logit_normal", mean=0.0, std=1.0),
    train=Train(
        updates=800,
        batch=128,
        ema=(0.99,),
        log_every=20,
        validate_every=200,
        sample_every=400,
        save_every=400,
    ),
    sample=Sample(steps=25, batch=500, count=40),
    optimizer=adamw(lr=3e-3),
    schedule=cosine(warmup=50),
)

QUICKSTART = Run(
    name="quickstart",
    about=About(
        purpose="captioned scenes of coloured shapes: text to image, offline, in four minutes",
        expect="attribute accuracy 0.98, whole scenes 0.94; for pairs not trained on 0.97, 0.88",
        time="217 seconds",
        device="two CPU cores",
    ),
    data=Data(source=pick("shapes", count=12_000), size=32, channels=3),
    text=pick("words", width=128, length=16),
    # Patch 8 makes patches wider than the network: only x1-prediction can learn them.
    backbone=small(depth=4, patch=8, bottleneck=64),
    objective=DATA,
    times=EARLY,
    train=Train(
        updates=2100,
        batch=32,
        ema=(0.997,),
        log_every=50,
        validate_every=0,
        sample_every=1050,
        save_every=1050,
    ),
    # Guided early only: later guidance rounds the corners off shapes.
    sample=Sample(
        solver=Pick("adams2"),
        steps=20,
        batch=100,
        guidance=pick("interval", scale=4.0, low=0.0, high=0.4),
    ),
    optimizer=adamw(lr=2.5e-3),
    schedule=cosine(warmup=50),
)

CIFAR10 = Run(
    name="cifar10",
    about=About(
        purpose="CIFAR-10 by class in the published kind of setting, for one GPU",
        device="one GPU",
    ),
    data=Data(source=pick("hub", repo="uoft-cs/cifar10", split="train"), size=32),
    text=Pick("labels"),
    backbone=pick("dit", width=768, depth=12, heads=12, patch=2),
    objective=VELOCITY,
    optimizer=pick("adamw", lr=1e-4),
    schedule=pick("constant", warmup=1000),
    train=Train(
        updates=100_000,
        batch=128,
        precision="bf16",
        ema=(0.9999,),
        log_every=100,
        validate_every=0,
        sample_every=5000,
        save_every=5000,
        keep_every=25_000,
    ),
    sample=Sample(guidance=pick("cfg", scale=3.0), steps=50, count=40),
)

SHAPES = replace(
    QUICKSTART,
    name="shapes",
    about=About(
        purpose="captioned scenes of coloured shapes, finer patches and a longer training",
        device="two CPU cores or one GPU",
    ),
    data=replace(QUICKSTART.data, source=pick("shapes", count=20_000), holdout=0.02),
    backbone=small(depth=6, patch=4),
    train=replace(
        QUICKSTART.train,
        updates=4000,
        ema=(0.999,),
        validate_every=500,
        sample_every=1000,
        save_every=1000,
    ),
)

FASHION = replace(
    DIGITS,
    name="fashion-mnist",
    about=About(
        purpose="clothes 28×28 by class: minutes on a CPU, a download of 30 MB",
        device="two CPU cores",
    ),
    data=Data(
        source=pick("hub", repo="zalando-datasets/fashion_mnist", split="train"),
        size=28,
        channels=1,
    ),
    backbone=small(depth=6, patch=4),
    train=replace(
        DIGITS.train, updates=1500, batch=64, ema=(0.995,), validate_every=0, sample_every=500
    ),
    sample=replace(DIGITS.sample, batch=100),
    optimizer=adamw(lr=1.5e-3),
    schedule=cosine(warmup=50),
)

CIFAR10_CPU = replace(
    CIFAR10,
    name="cifar10-cpu",
    about=About(
        purpose="CIFAR-10 by class at a size that shows something in an hour on two cores",
        device="two CPU cores",
    ),
    backbone=small(depth=6, patch=4),
    objective=DATA,
    times=EARLY,
    train=replace(
        CIFAR10.train,
        updates=8000,
        batch=64,
        precision="auto",
        ema=(0.998,),
        log_every=50,
        sample_every=1000,
        save_every=1000,
        keep_every=0,
    ),
    sample=replace(CIFAR10.sample, guidance=pick("cfg", scale=2.0), steps=25),
    optimizer=adamw(lr=2e-3),
    schedule=cosine(warmup=50),
)

DEBUG = replace(
    DIGITS,
    name="debug",
    about=About(
        purpose="every step of a run in seconds: does the installation work, does my change run",
        expect="no recognisable images",
        device="any",
    ),
    backbone=small(width=32, depth=1, heads=2),
    schedule=cosine(2),
    train=Train(
        updates=6,
        batch=16,
        accumulate=2,
        ema=(0.9,),
        log_every=1,
        validate_every=3,
        sample_every=3,
        save_every=3,
    ),
    sample=replace(DIGITS.sample, steps=4, batch=10, count=10),
)

OVERFIT = replace(
    DIGITS,
    name="overfit",
    about=About(
        purpose="sixteen scenes memorised: a network that cannot do this has a bug",
        expect="the loss falls well below that of a run on all the data",
        device="two CPU cores",
    ),
    data=replace(QUICKSTART.data, source=pick("shapes", count=16)),
    text=QUICKSTART.text,
    backbone=QUICKSTART.backbone,
    objective=pick("flow", prediction="x1", dropout=0.0, floor=0.05),
    train=replace(DIGITS.train, updates=500, batch=64, validate_every=0, sample_every=250),
    sample=QUICKSTART.sample,
    optimizer=adamw(lr=1.5e-3),
    schedule=cosine(warmup=50),
)

PIXEL = (QUICKSTART, DIGITS, SHAPES, FASHION, CIFAR10, CIFAR10_CPU, DEBUG, OVERFIT)
