"""examples/import_botanical.py: true latents in our cache, normalised by their own statistics."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pathline.data.cache.reader import INDEX, STATS, read

DATA = Path(__file__).parents[3] / "shared/data"
FILE = DATA / "botanical-cache/eqsdxl_t5gemma2.safetensors"
EXAMPLE = Path(__file__).parents[2] / "examples/import_botanical.py"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FILE.is_file(), reason="needs the real latents in ../shared"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    where = tmp_path_factory.mktemp("imported") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        arguments = [str(FILE), str(DATA / "botanical"), "--out", str(where)]
        patch.setattr(sys, "argv", ["import", *arguments])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return where


def test_every_channel_is_normal_in_each_of_three_shapes_together(out):
    cached = read(out)
    assert sorted(cached.sizes) == [(384, 640), (512, 512), (640, 384)]
    counts = {cached.sizes[n]: int((cached.bucket == n).sum()) for n in range(3)}
    assert counts == {(512, 512): 122, (384, 640): 43, (640, 384): 35}
    values = []
    for bucket in range(3):
        rows = (cached.bucket == bucket).nonzero().flatten()
        raw = cached.latents(rows, None).double()
        values.append(
            ((raw - cached.mean.view(-1, 1, 1)) / cached.std.view(-1, 1, 1)).transpose(0, 1)
        )
    x1 = torch.cat([value.flatten(1) for value in values], 1)
    assert (x1.std(1) - 1).abs().max() < 0.02
    assert x1.mean(1).abs().max() < 0.02
    one_number = x1 * cached.std[:, None] / cached.std.mean()  # the control: a scalar can't
    assert (one_number.std(1) - 1).abs().max() > 0.2


def test_the_statistics_are_those_the_notes_measured(out):
    pooled = json.loads((out / STATS).read_text())["pooled"]
    assert pooled["std"] * 0.13025 == pytest.approx(1.2366, abs=1e-3)
    assert pooled["mean"] * 0.13025 == pytest.approx(-0.3168, abs=1e-3)


def test_latents_and_states_are_those_of_the_file(out):
    cached, found = read(out), load_file(FILE)
    row = cached.keys.index("017.jpg")
    raw = cached.latents(torch.tensor([row]), None)[0]
    assert torch.allclose(raw * 0.13025, found["latent.017"].float(), rtol=1e-3, atol=1e-4)
    cond = cached.cond(torch.tensor([row]), torch.zeros(1))
    length = int(cond.mask.sum())
    assert torch.equal(cond.tokens[0, :length], found["text"][row, :length].float())
    every = cached.cond(torch.arange(200), torch.zeros(200))
    words = torch.tensor([len(said[0].split()) for said in cached.captions])
    more = every.mask.sum(1) - words
    assert more.min() >= 0  # a word has at least a token
    assert more.float().median() < 16  # and padding is not counted among them
    assert cached.null.tokens.abs().max() == 0


def test_mirrored_pictures_are_marked(out):
    lines = [json.loads(line) for line in (out / INDEX).read_text().splitlines()]
    assert sum(line["mirrored"] for line in lines) == 98
    assert not read(out).flipped
