"""The vision encoders by name; a row gives a `Vision`."""

from pathline.vision.encoder import encoder, none

VISION = {"none": none, "encoder": encoder}
