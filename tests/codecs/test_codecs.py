"""The pixel codec and the one normalisation."""

import json
import re

import pytest
import torch

from pathline.codecs.kl_small import kl_small
from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.own import moments, store
from pathline.codecs.pixel import encode
from pathline.codecs.table import CODECS
from pathline.types import Facts

FACTS = Facts(3, 4, 4)


def test_every_byte_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    codec = CODECS["pixel"](FACTS, mean=0.3, std=0.7)
    x1 = normalise(codec, codec.encode(pixels))
    assert torch.equal(codec.decode(denormalise(codec, x1)), pixels)


def test_ends_of_the_range():
    codec = CODECS["pixel"](FACTS)
    raw = codec.encode(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    assert raw.flatten().tolist() == [-1, 1]
    assert codec.decode(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_normalising_is_per_channel():
    codec = CODECS["pixel"](FACTS)._replace(
        mean=torch.tensor([1.0, 2.0, 3.0]), std=torch.tensor([1.0, 2.0, 4.0])
    )
    raw = torch.ones(1, 3, 1, 1) * torch.tensor([2.0, 4.0, 7.0]).view(3, 1, 1)
    assert normalise(codec, raw).flatten().tolist() == [1, 1, 1]


# --- what docs/extend.md promises of a row: x1 has a standard deviation of about 1 ----------------

DIFFUSERS = {  # rows that read a folder of diffusers, and its config.json
    "kl": {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "force_upcast": False},
    "dcae": {"_class_name": "AutoencoderDC", "scaling_factor": 0.5},
    "taesd": {"_class_name": "AutoencoderTiny"},
    "rae": {"_class_name": "AutoencoderRAE"},
}
FILES = {"taef2": "taef2.safetensors", "detok": "detok-BB-gamm3.0-m0.7-decoder_tuned.pth"}
PUBLISHED = {*DIFFUSERS, *FILES}  # with constants of published weights
NETWORK = {"channels": 3, "factor": 2, "patch": 1, "width": 8, "depth": 1}


def digits_x1(codec):
    x1 = normalise(codec, codec.encode(digits()))
    return x1.transpose(0, 1).flatten(1)


def digits():
    from sklearn.datasets import load_digits

    pixels = torch.as_tensor(load_digits().images[:256]).mul(15.9375).round().to(torch.uint8)
    return pixels[:, None]


def pixel_codec(_):
    return CODECS["pixel"](Facts(1, 8, 8), mean=-0.39, std=0.75)  # of the digits


def trained_codec(folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kl_small(1, **NETWORK).eval()
    with torch.no_grad():
        count, total, squares = moments(network, encode(digits())).float()
    mean = total / count
    std = (squares / count - mean.square()).sqrt()
    store(folder, network, name="kl_small", options=NETWORK, mean=mean, std=std, measured={})
    return CODECS["trained"](Facts(1, 8, 8), path=str(folder))


OFFLINE = {"pixel": pixel_codec, "trained": trained_codec}


def published_codec(row, folder, weights):
    """A row with published weights on a folder of its files; nothing reads the weights yet."""
    folder.mkdir()
    (folder / FILES.get(row, "diffusion_pytorch_model.safetensors")).write_bytes(weights)
    if row in DIFFUSERS:
        (folder / "config.json").write_text(json.dumps(DIFFUSERS[row]), encoding="utf-8")
    return CODECS[row](FACTS, path=str(folder))


@pytest.mark.parametrize("row", CODECS)
def test_the_id_says_the_row_and_what_decides_its_latents(row, tmp_path):
    """An empty id would let a cache of one codec be taken for another's."""
    if row in OFFLINE:
        codec = OFFLINE[row](tmp_path)
    else:
        codec = published_codec(row, tmp_path / "one", b"one")
        assert published_codec(row, tmp_path / "two", b"two").id != codec.id
        assert published_codec(row, tmp_path / "copy", b"one").id == codec.id
    assert codec.id
    assert re.split("[:@ ]", codec.id)[0] == row


def test_every_row_is_in_one_of_the_lists():
    assert set(OFFLINE) | PUBLISHED == set(CODECS)


@pytest.mark.parametrize("row", OFFLINE)
def test_x1_has_a_standard_deviation_of_about_one(row, tmp_path):
    x1 = digits_x1(OFFLINE[row](tmp_path))
    torch.testing.assert_close(x1.mean(1), torch.zeros(len(x1)), atol=0.05, rtol=0)
    torch.testing.assert_close(x1.std(1), torch.ones(len(x1)), atol=0.05, rtol=0)


def test_a_wrong_constant_is_noticed():
    codec = CODECS["pixel"](Facts(1, 8, 8))  # the usual ones: not those of the digits
    assert abs(digits_x1(codec).std().item() - 1) > 0.2
