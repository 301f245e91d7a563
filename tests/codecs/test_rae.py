"""RAE: a tiny random AutoencoderRAE, read through the row."""

import pytest
import torch

from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.table import CODECS
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
FACTS = Facts(3, 16, 16)
TINY = {
    "encoder_type": "dinov2",
    "encoder_hidden_size": 64,  # one head
    "encoder_patch_size": 14,
    "encoder_num_hidden_layers": 1,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
    "patch_size": 8,
    "encoder_input_size": 28,
    "noise_tau": 0.8,
    "scaling_factor": 0.5,
}


@pytest.fixture
def theirs(tmp_path):
    rng = torch.Generator().manual_seed(0)
    stats = {"latents_mean": torch.randn(64, 2, 2, generator=rng),
             "latents_std": torch.rand(64, 2, 2, generator=rng) + 0.5}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderRAE(**TINY, **stats).save_pretrained(tmp_path)
    return diffusers.AutoencoderRAE.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()


def pictures(size=16):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=rng)


def test_rae_is_diffusers_own_result(theirs, tmp_path):
    codec = CODECS["rae"](FACTS, path=str(tmp_path))
    assert (codec.channels, codec.factor) == (64, 8)
    with torch.no_grad():
        z = theirs.encode(pictures().float() / 255).latent
        back = theirs.decode(z).sample
    raw = codec.encode(pictures())
    assert raw.shape == (2, 64, 2, 2)
    assert torch.equal(raw, z)  # without the noise of its training
    wanted = (back * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(codec.decode(raw), wanted)
    assert torch.equal(denormalise(codec, normalise(codec, raw)), raw)  # it normalises inside


@pytest.mark.usefixtures("theirs")
def test_only_its_own_square(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"32x32 pixels is wrong because codec=rae takes 16x16 only.*Set data.size=16",
    ):
        CODECS["rae"](FACTS, path=str(tmp_path)).encode(pictures(32))
