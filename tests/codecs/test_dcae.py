"""DC-AE: a tiny random AutoencoderDC, read through the row."""

import json

import pytest
import torch

from pathline.codecs.normalise import normalise
from pathline.codecs.table import CODECS
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
FACTS = Facts(3, 16, 16)
TINY = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 8, 16),
    "decoder_block_out_channels": (8, 8, 16),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,)),
    "scaling_factor": 0.41407,
}


@pytest.fixture
def theirs(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderDC(**TINY).save_pretrained(tmp_path)
    return diffusers.AutoencoderDC.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()


def pictures(height=16, width=24):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=rng)


def test_dcae_is_diffusers_own_result(theirs, tmp_path):
    codec = CODECS["dcae"](FACTS, path=str(tmp_path))
    assert (codec.channels, codec.factor) == (4, 4)
    with torch.no_grad():
        z = theirs.encode(pictures().float() / 127.5 - 1).latent
        back = theirs.decode(z).sample
    raw = codec.encode(pictures())
    assert raw.shape == (2, 4, 4, 6)
    assert torch.equal(raw, z)
    wanted = (back.add(1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(codec.decode(raw), wanted)
    assert torch.allclose(normalise(codec, raw), z * 0.41407, atol=1e-5)


def test_the_factor_is_that_of_the_model(tmp_path):
    """f32, f64 and f128 differ in the number of levels alone; weights aren't needed to know."""
    levels = {6: 32, 7: 64, 8: 128}
    for number, factor in levels.items():
        config = {"_class_name": "AutoencoderDC", "scaling_factor": 0.3, "latent_channels": 128,
                  "encoder_block_out_channels": [8] * number}  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        codec = CODECS["dcae"](FACTS, path=str(tmp_path))
        assert (codec.channels, codec.factor) == (128, factor)


@pytest.mark.usefixtures("theirs")
def test_odd_sizes_a_missing_scale_and_tiles(tmp_path):
    with pytest.raises(ValueError, match=r"18x24 pixels.*multiples of 4"):
        CODECS["dcae"](FACTS, path=str(tmp_path)).encode(pictures(18))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "scaling_factor"}))
    with pytest.raises(ValueError, match=r"Set codec\.scale"):  # the class's default of 1 is wrong
        CODECS["dcae"](FACTS, path=str(tmp_path))
    codec = CODECS["dcae"](FACTS, path=str(tmp_path), scale=0.5, tiles=True)
    assert codec.decode(codec.encode(pictures())).shape == (2, 3, 16, 24)
    assert codec.id.endswith("tiles=True")
