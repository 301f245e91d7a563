"""Words or labels -> Cond. A row is built from the facts of the data and gives a `Text`."""

from pathline.text.labels import labels, none
from pathline.text.learned import words

TEXTS = {"none": none, "labels": labels, "words": words}
