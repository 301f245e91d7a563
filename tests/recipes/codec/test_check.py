"""`pathline codec check`: a perfect codec, and broken ones that must be found out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.codecs.pixel import decode, encode
from pathline.recipes.codec.check import codec_check, decibels
from pathline.tables import TABLES
from pathline.types import Codec


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(7):
        array = rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def check(codec, folder, *overrides, **options):
    out = folder.parent / "new" / "check.png"
    assert codec_check(codec, str(folder), "device=cpu", *overrides, out=out, **options) == 0
    with Image.open(out) as picture:
        picture.load()
    return json.loads(out.with_suffix(".json").read_text()), picture


def test_no_codec_at_all_is_perfect(folder):
    report, picture = check("pixel", folder, batch=3)
    assert (report["pictures"], report["size"], report["left_out"]) == (7, [18, 18], 0)
    assert report["mse"] == 0
    assert report["psnr"] == {"mean": 100, "median": 100, "worst": 100}
    for turn in ("flip", "rotate"):
        assert report["equivariance"][turn] == {"latent": 0, "psnr": 100}
    assert report["equivariance"]["scale"]["latent"] < 1e-3  # rounded to bytes
    assert picture.height > picture.width  # six rows of three


def test_statistics_are_those_of_the_pixels(folder):
    report, _ = check("pixel", folder, "codec.mean=0.5", "codec.std=2", size=18)
    pixels = []
    for file in sorted(folder.iterdir()):
        array = np.asarray(Image.open(file), np.float64)[:, 3:21]  # the middle
        pixels.append(array / 127.5 - 1)
    whole = np.stack(pixels)
    assert report["raw"]["mean"] == pytest.approx(whole.mean((0, 1, 2)).tolist(), abs=1e-6)
    assert report["raw"]["std"] == pytest.approx(whole.std((0, 1, 2)).tolist(), abs=1e-6)
    assert report["raw"]["pooled_std"] == pytest.approx(whole.std(), abs=1e-6)
    assert report["x1"]["pooled_mean"] == pytest.approx((whole.mean() - 0.5) / 2, abs=1e-6)


def row(encode, decode, factor=1):
    def made(facts):
        """A codec of a test."""
        del facts
        return Codec(encode, decode, torch.zeros(3), torch.ones(3), factor, 3, "broken")

    return made


def ramp(x):
    return torch.linspace(0, 3, x.shape[-1])


BROKEN = {
    # a place in the picture leaks into the latent: exact both ways, but it does not turn along
    "ramp": row(lambda x: encode(x) + ramp(x), lambda raw: decode(raw - ramp(raw))),
    # channels mixed up on the way back
    "mixed": row(encode, lambda raw: decode(raw.roll(1, 1))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_codec_is_found_out(folder, name, monkeypatch):
    monkeypatch.setitem(TABLES["codec"], name, BROKEN[name])
    report, _ = check(name, folder)
    flip = report["equivariance"]["flip"]
    if name == "ramp":
        assert report["psnr"]["worst"] == 100
        assert flip["latent"] > 0.5
        assert flip["psnr"] < 20
    else:
        assert report["psnr"]["mean"] < 10
        assert flip["latent"] == 0
        assert flip["psnr"] < 10


def test_a_codec_of_one_size_leaves_scaling_out(folder, monkeypatch, capsys):
    def only(x):
        if x.shape[-1] != 16:
            raise ValueError("takes 16x16 only")
        return encode(x)

    monkeypatch.setitem(TABLES["codec"], "square", row(only, decode, factor=4))
    report, _ = check("square", folder)
    assert report["size"] == [16, 16]  # a multiple of its factor
    assert report["equivariance"].keys() == {"flip", "rotate"}
    assert "left out: scale: takes 16x16 only" in capsys.readouterr().out


def test_torn_pictures_are_named_and_left_out(folder, capsys):
    (folder / "3.png").write_bytes(b"\x89PNG")
    report, _ = check("pixel", folder)
    assert (report["pictures"], report["left_out"]) == (6, 1)
    assert "3.png" in capsys.readouterr().out
    for file in folder.iterdir():
        file.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="No image can be read"):
        check("pixel", folder)


def test_bad_input(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no codec called 'pixle'.*Did you mean 'pixel'"):
        check("pixle", folder)
    with pytest.raises(ValueError, match="takes no option 'paht'"):
        check("kl", folder, "codec.paht=x")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check("kl", folder, f"codec.path={tmp_path / 'missing'}")


def test_decibels():
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0.0) == 100
