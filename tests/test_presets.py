"""Every preset assembles at a tiny size, and updates, validates and samples in every precision."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pathline.config.presets.latents import LATENT, VARIANTS
from pathline.config.resolve import PRESETS, read
from pathline.evaluation.training import run_training
from pathline.recipes.generate import generate
from pathline.tables import TABLES

TINY = (
    *("backbone.width=48", "backbone.depth=1", "backbone.heads=4", "train.updates=1"),
    *("train.batch=8", "train.log_every=1", "train.sample_every=1", "train.save_every=1"),
    *("train.validate_every=1", "sample.steps=2", "sample.count=2"),
)
# Codecs and encoders of others are not there; tests/recipes/test_cached.py trains on a cache.
LOOSE = (
    *("codec=pixel", "text=labels", "data.cache=''", "data.size=16"),
    *("train.accumulate=1", "backbone.patch=2", "data.buckets.max_ratio=1", "data.tags.variants=0"),
)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of three pictures."""
    folder = tmp_path / "pictures"
    for word, red in (("cat", 200), ("dog", 20)):
        (folder / word).mkdir(parents=True)
        for number in range(3):
            colour = (red, 40 * number, 90)
            Image.new("RGB", (12, 10), colour).save(folder / word / f"{number}.png")
    return folder


# Variants differ in lengths alone, which TINY replaces.
ONCE = [name for name, run in PRESETS.items() if run not in VARIANTS]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("preset", ONCE)
def test_preset(preset, precision, pictures, tmp_path, monkeypatch):
    """Assembled small: one update, one validation, one grid; all else is as the preset has it."""
    monkeypatch.chdir(tmp_path)
    named, small = PRESETS[preset], [*TINY, f"train.precision={precision}"]
    if named.data.source.name == "shapes":
        small += ["data.source.count=8"]
    if named.data.source.name in ("hub", "folder", "tar"):
        small += ["data.source=folder", f"data.source.path={pictures}"]
    if named in LATENT or named.data.cache:
        small += LOOSE
    # Two pictures to validate on, of the six or eight there are, or of 1,797 digits.
    small.append(f"data.holdout={0.001 if named.data.source.name == 'digits' else 0.3}")
    what = preset
    if named.size != "auto":
        what, small = str(pictures), [*small, f"size={named.size}"]
    run = read(what, (), small, tables=TABLES).run
    trained = run_training(run, Path("run"), None, Console(quiet=True))
    assert trained.outcome.reason == "done"
    assert trained.outcome.progress == (1, 8)
    assert len(list(Path("run/samples").glob("*.png"))) >= 1
    metrics = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    assert any(math.isfinite(line.get("val/loss", math.nan)) for line in metrics)
    if precision == "fp32":
        assert generate(Path("run"), n=1, steps=2, out=Path("drawn")) == 0
        (drawn,) = Path("drawn").iterdir()
        with Image.open(drawn) as picture:
            assert picture.size == (run.data.size, run.data.size)
