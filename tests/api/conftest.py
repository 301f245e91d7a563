"""A digits run after some updates, and one trained on captions."""

import pytest
from PIL import Image

import pathline

TINY = {
    "backbone": {"width": 32, "depth": 1, "heads": 2},
    "train": {
        **{"updates": 10, "precision": "fp32", "validate_every": 0, "sample_every": 0},
        **{"ema": [0.5, 0.9]},
    },
    # Fast enough that the network answers with more than the zeros that it starts with.
    "optimizer": {"lr": 0.01},
    "schedule": {"name": "constant", "warmup": 0},
    "sample": {"steps": 3},
}


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A flow that knows ten classes."""
    return pathline.train("digits", out=tmp_path_factory.mktemp("runs") / "digits", **TINY)


@pytest.fixture(scope="session")
def captioned(tmp_path_factory):
    """A flow that knows words."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        Image.new("RGB", (16, 16), (30 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(
            "a red circle" if number % 2 else "a blue square", encoding="utf-8"
        )
    settings = {**TINY, "data": {"size": 16}, "text": {"name": "words", "width": 16}}
    settings["backbone"] = {**TINY["backbone"], "patch": 4}
    return pathline.train(folder, out=folder.with_name("words"), seed=1, **settings)
