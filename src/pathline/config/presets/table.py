"""Every preset of `pathline train`, by name."""

from pathline.config.presets.latents import LATENT
from pathline.config.presets.methods import methods
from pathline.config.presets.pixels import PIXEL

PRESETS = {run.name: run for run in (*PIXEL, *LATENT)}
PRESETS |= {run.name: run for run in methods(PRESETS)}
