"""Presets in the latent space of a codec: `pathline preprocess NAME` first, then train.

Preprocessing needs the places of weights and images (codec.path, text.path, data.source.path); a
training reads the cache.
"""

from dataclasses import replace
from typing import Any

from pathline.config.pick import Pick, pick
from pathline.config.presets.rows import DATA, EARLY, VELOCITY, adamw, cosine
from pathline.config.run import Buckets, Data, Run, Sample, Tags, Train
from pathline.config.sections import About

EMOJI = Run(
    name="emoji",
    about=About(
        purpose="captioned emoji 128×128 in TAEF2 latents, text by MiniLM, on a laptop",
        expect="84 % of images for training captions retrieve their own in the first 5 of 3,540",
        time="six minutes to preprocess, fifty to train",
        device="two CPU cores",
    ),
    data=Data(source=pick("folder", path="emoji"), size=128, cache="caches/emoji"),
    codec=Pick("taef2"),
    text=pick("encoder", path="sentence-transformers/all-MiniLM-L6-v2", length=32),
    # Few tokens: half an hour on two cores is better spent on epochs than on fine patches.
    backbone=pick("stream_dit", size="tiny/2", patch=4, width=192, heads=3),
    objective=DATA,
    times=pick("logit_normal", mean=-0.8, std=1.0),
    train=Train(
        updates=2500,
        batch=64,
        ema=(0.999,),
        validate_every=0,
        sample_every=500,
        save_every=250,
    ),
    sample=Sample(solver=Pick("adams2"), steps=20, guidance=pick("cfg", scale=3.0)),
    optimizer=pick("muon", lr=0.01, other_lr=0.002),
    schedule=cosine(warmup=100),
)

FLOWERS_STREAM = Run(
    name="flowers-stream",
    about=About(
        purpose="200 captioned flowers in three shapes, EQ-SDXL-VAE and T5Gemma 2, one stream",
        device="one GPU; backbone.size=tiny/2 on a CPU",
    ),
    data=Data(
        source=pick("folder", path="botanical"),
        size=512,
        cache="caches/flowers-stream",
        buckets=Buckets(max_ratio=1.7, multiple=64),
    ),
    codec=pick("kl", path="KBlueLeaf/EQ-SDXL-VAE"),
    text=pick("t5gemma2", path="google/t5gemma-2-1b-1b", length=256),
    backbone=pick("stream_dit", size="B/2"),
    objective=VELOCITY,
    terms={"l1": 1.0},
    times=pick("logit_normal", mean=-0.5, std=1.0),
    train=Train(updates=30_000, batch=8, ema=(0.999,), precision="auto", save_every=1000),
    sample=Sample(solver=Pick("rk4"), steps=30, guidance=pick("cfg", scale=3.0)),
    optimizer=adamw(lr=2e-4),
    schedule=cosine(warmup=500),
)

FLOWERS_64 = Run(
    name="flowers-64",
    about=About(
        purpose="flower photographs 64×64 in five kinds by class, on pixels",
        expect="after 1,300 updates kinds differ visibly, Fréchet (classifier) 2.4; not finished",
        device="two CPU cores",
    ),
    data=Data(source=pick("tar", path="flowers"), size=64, holdout=0.1, flip=True),
    text=Pick("labels"),
    backbone=pick("stream_dit", size="nano/2", patch=8, width=192, bottleneck=96),
    objective=DATA,
    times=EARLY,
    train=Train(updates=6000, batch=64, ema=(0.999,), sample_every=1500, validate_every=1500),
    sample=Sample(solver=Pick("adams2"), steps=25, guidance=pick("cfg", scale=1.5)),
    optimizer=adamw(lr=1.5e-3),
    schedule=cosine(warmup=100),
)

T2I_64 = Run(
    name="t2i-64",
    about=About(
        purpose="text to image on two million captioned images 64×64: T5-small, SD's VAE",
        device="one GPU or more",
    ),
    data=Data(
        source=pick("hub", repo="jackyhate/text-to-image-2M", split="train"),
        size=64,
        cache="caches/t2i-64",
        holdout=0.001,
    ),
    codec=pick("kl", path="stabilityai/sd-vae-ft-mse"),
    text=pick("t5", path="google-t5/t5-small", length=128),
    backbone=pick("cross_dit", size="B/1"),
    objective=VELOCITY,
    train=Train(
        updates=30_000,
        batch=576,
        accumulate=3,
        precision="bf16",
        ema=(0.9999,),
        validate_every=1000,
        sample_every=1000,
        save_every=1000,
        keep_every=10_000,
    ),
    sample=Sample(steps=50, guidance=pick("cfg", scale=3.0)),
    optimizer=adamw(lr=1e-4),
    schedule=cosine(warmup=500),
)


def variant(name: str, purpose: str, holdout: float = 0.001, **train: Any) -> Run:
    """T2I_64 at another length."""
    return replace(
        T2I_64,
        name=f"t2i-64-{name}",
        about=About(purpose=f"t2i-64: {purpose}", device=T2I_64.about.device),
        data=replace(T2I_64.data, holdout=holdout),
        train=(training := replace(T2I_64.train, **train)),
        schedule=cosine(warmup=min(500, training.updates // 5)),
    )


HALF: dict[str, Any] = {"batch": 288, "accumulate": 1}  # of the batch, in one piece
VARIANTS = (
    variant("debug", "a hundred updates, to see that it runs", updates=100, **HALF),
    variant("overfit", "memorise a few images: 0.02 % of them", 0.9998, updates=5000, **HALF),
    variant("hparam-tuning", "short, to compare settings by", updates=5000, **HALF),
    variant("stability", "the recommended first run, thirty thousand updates"),
    variant("full-scale", "ten times as long", updates=300_000),
)

ANIME_256 = Run(
    name="anime-256",
    about=About(
        purpose="tagged drawings of many shapes at about 256×256: DC-AE latents, T5Gemma",
        device="one GPU or more",
    ),
    data=Data(
        source=pick("folder", path="anime"),
        size=256,
        cache="caches/anime-256",
        buckets=Buckets(max_ratio=2.0, multiple=32),
        tags=Tags(variants=4, order="danbooru", keep=2, dropout=0.1),
        holdout=0.005,
    ),
    codec=pick("dcae", path="mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"),
    text=pick("t5gemma", path="google/t5gemma-b-b-ul2", length=256),
    backbone=pick("stream_dit", size="B/1"),
    objective=VELOCITY,
    train=Train(updates=200_000, batch=256, precision="bf16", ema=(0.9999,), keep_every=50_000),
    sample=Sample(solver=Pick("unipc2"), steps=25, guidance=pick("cfg", scale=4.0)),
    optimizer=adamw(lr=2e-4),
    schedule=cosine(warmup=500),
)

ANIME_512 = replace(
    ANIME_256,
    name="anime-512",
    about=About(
        purpose="the same at about 512×512, with CLIP's text states and its pooled vector",
        device="one GPU or more",
    ),
    data=replace(
        ANIME_256.data,
        size=512,
        cache="caches/anime-512",
        buckets=Buckets(max_ratio=2.0, multiple=64),
    ),
    text=pick("clip", path="openai/clip-vit-large-patch14"),
    backbone=pick("stream_dit", size="L/1"),
)

LATENT = (EMOJI, FLOWERS_STREAM, FLOWERS_64, T2I_64, *VARIANTS, ANIME_256, ANIME_512)
