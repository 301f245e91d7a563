"""Trainings of a codec, by name: `pathline codec train NAME`."""

from dataclasses import replace

from pathline.config.codec_run import CodecImages, CodecRun, CodecTraining
from pathline.config.pick import Pick, pick
from pathline.config.sections import About

# Convolutions of half the image's size: on a CPU the full size would take three times as long.
KL = pick("kl_small", patch=2, width=48, depth=1, kl=1e-6)
VQ = pick("vqvae", patch=2, width=48, depth=1, size=256)
FSQ = pick("fsq", patch=2, width=48, depth=1, levels=(8, 5, 5, 5))

SHAPES_KL = CodecRun(
    name="shapes-kl",
    about=About(
        purpose="captioned shapes 32×32 to 4×8×8, continuous latents: minutes on a CPU",
        expect="held-out PSNR 31.8 dB after 500 updates, 32.8 after 600; no channel collapses",
        time="four minutes, 0.23 s an update",
        device="one CPU core",
    ),
    data=CodecImages(source=pick("shapes", count=4000)),
    network=KL,
    train=CodecTraining(updates=1000),
)
SHAPES_VQ = replace(
    SHAPES_KL,
    name="shapes-vq",
    about=About(purpose="captioned shapes 32×32 to 4×8×8, a codebook of 256"),
    network=VQ,
)
SHAPES_FSQ = replace(
    SHAPES_KL,
    name="shapes-fsq",
    about=About(purpose="captioned shapes 32×32 to 4×8×8, 1000 fixed codes"),
    network=FSQ,
)
DIGITS_VQ = CodecRun(
    name="digits-vq",
    about=About(purpose="handwritten digits 8×8 to 4×4×4, a codebook of 64: a look in a minute"),
    data=CodecImages(source=Pick("digits"), size=8, channels=1, holdout=0.2),
    network=pick("vqvae", factor=2, width=32, depth=1, size=64),
    train=CodecTraining(
        updates=600, batch=64, validate_every=200, sample_every=200, save_every=200
    ),
)
EMOJI_KL = CodecRun(
    name="emoji-kl",
    about=About(purpose="emoji 64×64 to 8×8×8; data.source.path names their folder"),
    data=CodecImages(source=pick("folder", path="emoji"), size=64),
    network=pick("kl_small", channels=8, factor=8, patch=2, width=48, depth=1),
    train=CodecTraining(updates=5000, batch=16),
)
OWN_FOLDER = CodecRun(
    name="own",
    about=About(purpose="the base for your own folder of images"),
    data=CodecImages(size=64),
    network=pick("kl_small", channels=8, factor=8, patch=2, width=64, depth=2),
    train=CodecTraining(updates=10_000, batch=16),
)

CODEC_PRESETS = {
    run.name: run for run in (SHAPES_KL, SHAPES_VQ, SHAPES_FSQ, DIGITS_VQ, EMOJI_KL, OWN_FOLDER)
}
