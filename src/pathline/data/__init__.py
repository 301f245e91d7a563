"""Pictures and what is said of them; every source gives uint8, caption, label and a stable key."""

from pathline.data import sources

SOURCES = {
    "digits": sources.digits,
    "shapes": sources.shapes,
    "folder": sources.folder,
    "parquet": sources.parquet,
    "tar": sources.tar,
    "hub": sources.hub,
}
