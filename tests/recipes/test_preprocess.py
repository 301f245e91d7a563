"""`pathline preprocess`: the table, a cache, a second run, a stop, a look, two processes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pathline.config.resolve import read as settings
from pathline.data.cache import reader as cache
from pathline.data.cache.plan import lay_out
from pathline.data.cache.reader import read
from pathline.evaluation.cache_check import check_cache
from pathline.recipes import preprocess as recipe
from pathline.recipes.preprocess import preprocess
from pathline.runs.cache_inputs import cache_inputs, patch_size

TINY = (
    *("data.size=32", "backbone.patch=4", "data.buckets.max_ratio=2.0", "train.batch=4"),
    "text=none",
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path):
    where = tmp_path / "set"
    where.mkdir()
    chance = np.random.default_rng(0)
    for number, (width, height) in enumerate([(40, 40), (60, 40), (40, 60), (33, 32), (64, 36)]):
        pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / f"{number}.png")
        (where / f"{number}.txt").write_text(f"number {number}")
    return where


def files(out):
    return {f.relative_to(out): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def test_a_dry_run_shows_the_buckets_and_writes_nothing(root, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(root / "tiny.png")
    (root / "torn.png").write_bytes(b"\x89PNG")
    assert preprocess(str(root), *TINY, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "40x24" in told  # one of the buckets of 32² in steps of 4
    assert "1 unreadable" in told
    assert "refused, too small: tiny.png: 9x9 would be enlarged 3.56 times" in told
    assert "torn.png cannot be read" in told
    assert "5 pictures to encode into caches/set; nothing was written" in told
    assert "hold fewer pictures than train.batch=4: an update repeats them" in told
    assert not (tmp_path / "caches").exists()


def test_a_folder_becomes_a_cache_once(root, capsys):
    assert preprocess(str(root), *TINY) == 0
    told = capsys.readouterr().out
    assert "caches/set: 5 pictures, 5 of them encoded now" in told
    assert "data.cache=caches/set" in told
    cached = read(Path("caches/set"))
    assert (cached.channels, cached.factor, len(cached.sizes)) == (3, 1, 3)
    before = files(Path("caches/set"))
    assert preprocess(str(root), *TINY) == 0
    assert "5 pictures, 0 of them encoded now" in capsys.readouterr().out
    assert files(Path("caches/set")) == before
    assert settings(base=Path("caches/set/run.yaml")).run.data.size == 32


def test_a_name_that_is_no_utf_8_is_a_name(root):
    try:
        (root / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "0.png").read_bytes())
    except OSError:
        pytest.skip("this disk takes UTF-8 alone")
    for _ in range(2):
        assert preprocess(str(root), *TINY) == 0
    assert os.fsdecode(b"caf\xe9.png") in read(Path("caches/set")).keys


def test_a_ratio_of_one_is_one_square_size(root):
    assert (
        preprocess(str(root), "data.size=32", "backbone.patch=4", "text=none", out=Path("out")) == 0
    )
    assert read(Path("out")).sizes == [(32, 32)]


def test_a_look_decodes_what_is_there(root, capsys):
    assert preprocess(str(root), *TINY, check=3, dtype="fp32") == 0
    told = capsys.readouterr().out
    assert "PSNR 99.0 dB over 3 pictures" in told
    with Image.open("caches/set/check.png") as sheet:
        assert sheet.width > 300


def test_a_look_can_tell_a_loss(root, tmp_path):
    """The control: a decoder that is off by four of 255 levels everywhere."""
    inputs, out = cache_inputs(settings(str(root), (), TINY).run), tmp_path / "out"
    assert preprocess(str(root), *TINY, out=out) == 0
    layout = lay_out(out, inputs.source, inputs.buckets, inputs.settings, lambda *_: None)
    off = inputs.codec._replace(decode=lambda raw: inputs.codec.decode(raw) ^ 4)
    given = (layout.pictures, 2, Console(quiet=True))
    found = check_cache(out, inputs._replace(codec=off), *given)
    assert found == pytest.approx([20 * math.log10(255 / 4)] * 2, abs=1e-3)
    with pytest.raises(ValueError, match="codec is 'other'"):
        check_cache(out, inputs._replace(codec=off._replace(id="other")), *given)


def test_another_codec_is_told(root, capsys):
    assert preprocess(str(root), *TINY) == 0
    assert preprocess(str(root), *TINY, dtype="bf16") == 0
    assert "dtype was 'fp16' and is 'bf16': all latents are made again" in capsys.readouterr().out


def test_bad_asks(root):
    with pytest.raises(ValueError, match="is inside the image folder"):
        preprocess(str(root), *TINY, out=root / "cache")
    with pytest.raises(ValueError, match="Nearest: 96 or 100"):
        preprocess(str(root), *TINY, "data.size=99")
    (root / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"1 of 6 pictures can't be read.*data.max_bad"):
        preprocess(str(root), *TINY)
    assert preprocess(str(root), *TINY, "data.max_bad=0.2") == 0
    line = json.loads(Path("caches/set", cache.UNREADABLE).read_text())
    assert "torn.png" in line["reason"]


def test_files_of_others_in_its_folders_stay(root):
    for room in ("latents", "text"):
        Path("out", room).mkdir(parents=True)
        Path("out", room, "thesis.txt").write_text("mine")
        Path("out", room, "mine.safetensors").write_text("mine")
    stale = Path("out/latents", "32x32-0123456789abcdef.safetensors")
    stale.write_text("a shard that was cut")
    assert preprocess(str(root), *TINY, out=Path("out")) == 0
    assert not stale.exists()
    for room in ("latents", "text"):
        assert Path("out", room, "thesis.txt").read_text() == "mine"
        assert Path("out", room, "mine.safetensors").exists()


def test_captions_want_an_encoder_and_classes_do_not(root):
    with pytest.raises(ValueError, match=r"text=encoder text\.path"):
        cache_inputs(settings(str(root)).run)
    for text in root.glob("*.txt"):
        text.unlink()
    assert cache_inputs(settings(str(root)).run).run.text.name == "none"


def test_tag_lists_become_several_captions_and_prose_stays(root):
    (root / "0.txt").write_text("1girl, long_hair, red_eyes, smile, outdoors, hat")
    asked = ("data.tags.variants=3", "data.tags.dropout=0.3", "text=none")
    run = settings(str(root), overrides=asked).run
    source = cache_inputs(run).source
    tagged, prose = source.about(0), source.about(1)
    assert 1 < len(tagged.captions) <= 3
    assert tagged.caption == tagged.captions[0]
    assert all(text.startswith("1girl") and "_" not in text for text in tagged.captions)
    assert prose.captions == ("number 1",)
    assert source.read(0).captions == tagged.captions
    assert tagged.of == (0,) * len(tagged.captions)
    plain = settings(str(root), overrides=["text=none"]).run
    assert len(cache_inputs(plain).source.about(0).captions) == 1
    (root / "-.png").write_bytes((root / "0.png").read_bytes())  # comes before the others
    assert cache_inputs(run).source.about(1).captions == tagged.captions


def test_a_caption_weighs_the_same_in_however_many_arrangements(root):
    """So a tag list of three arrangements beside prose is heard half of the time."""
    (root / "0.txt").write_text("1girl, long_hair, red_eyes, smile, outdoors, hat\n \nA girl.")
    assert preprocess(str(root), *TINY, "data.tags.variants=3", "data.tags.dropout=0.3") == 0
    cached = read(Path("caches/set"))
    row = cached.keys.index("0.png")
    assert cached.captions[row][-1] == "A girl."
    many = len(cached.captions[row]) - 1
    assert many > 1
    assert cached.weights[row] == (*[1 / many] * many, 1.0)
    assert read(Path("caches/set"), [1.0, 3.0]).weights[row] == (*[1 / many] * many, 3.0)
    assert {read(Path("caches/set"), [5.0]).weights[n] for n in range(5) if n != row} == {(5.0,)}


def test_the_patch_is_that_of_the_backbone():
    assert patch_size(settings(None, (), ["backbone=dit", "backbone.size=S/8"]).run) == 8
    assert patch_size(settings(None, (), ["backbone=dit", "backbone.patch=3"]).run) == 3


def test_flips_are_of_the_settings(root):
    tools = cache_inputs(settings(str(root), (), [*TINY, "data.flip=true"]).run)
    assert tools.settings.flip
    assert preprocess(str(root), *TINY, "data.flip=true") == 0
    cached = read(Path("caches/set"))
    rows, both = torch.tensor([0, 0]), torch.tensor([False, True])
    plain, mirrored = cached.latents(rows, both)
    assert torch.equal(mirrored, plain.flip(-1))  # of pixels, this codec's latents


SCRIPT = """
import sys
from pathlib import Path
from pathline.recipes.preprocess import preprocess
source, out, *settings = sys.argv[1:]
sys.exit(preprocess(source, *settings, out=Path(out), device="cpu", batch=2))
"""


@pytest.mark.slow  # two fresh processes import torch
def test_two_processes_write_the_cache_of_one(root, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    asked = [str(script), str(root), "two", *TINY, "data.max_bad=0.3"]
    (root / "torn.png").write_bytes((root / "4.png").read_bytes()[:3000])
    done = subprocess.run([*launch, *asked], capture_output=True, text=True, env=alone, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two: 5 pictures, 5 of them encoded now") == 1
    assert (
        preprocess(str(root), *TINY, "data.max_bad=0.3", out=Path("one"), batch=2, device="cpu")
        == 0
    )
    assert files(Path("one")) == files(Path("two"))


def test_ctrl_c_leaves_what_is_whole_and_says_how_to_go_on(root, monkeypatch, capsys):
    def interrupted(inputs, device):
        plain = encoders(inputs, device)

        def encode(pixels):
            if Path("caches/set/latents").exists():
                raise KeyboardInterrupt
            return plain.latents(pixels)

        return plain._replace(latents=encode)

    encoders = recipe.encoders
    monkeypatch.setattr(recipe, "encoders", interrupted)
    assert preprocess(str(root), *TINY) == 130
    assert "Interrupted. What was encoded is in caches/set" in capsys.readouterr().out
    there = len(list(Path("caches/set/latents").iterdir()))
    assert there == 1
    monkeypatch.undo()
    assert preprocess(str(root), *TINY) == 0
    assert len(read(Path("caches/set")).keys) == 5
