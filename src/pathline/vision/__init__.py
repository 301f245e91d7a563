"""Pictures -> what a frozen encoder says of them, place by place; a row gives a `Vision`."""

from pathline.vision.encoder import encoder, none

VISION = {"none": none, "encoder": encoder}
