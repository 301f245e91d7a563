"""The vision encoders by name; a row gives a `Vision`."""

from pathline.types import Row
from pathline.vision.encoder import encoder, none

VISION = {"none": none, "encoder": Row(encoder, needs=("feature_term",), gives=("features",))}
