"""l-DeTok: published names and shapes, and numbers that the published code gave."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pathline.codecs.detok import Decoder, DeTok, Encoder, build_empty, rotations
from pathline.codecs.table import CODECS
from pathline.types import Facts

FACTS = Facts(3, 32, 32)
TINY = {"channels": 4, "patch": 8, "size": 32}


def tiny_state():
    """Weights that need no file: sines, in the order of the names."""
    network = DeTok(Encoder(64, 2, 4, 8, 4), Decoder(128, 1, 4, 8, 4))
    found = {}
    for number, (name, value) in enumerate(sorted(network.state_dict().items())):
        wave = 0.2 * torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + number)
        is_gain = "norm" in name or "ln_" in name
        found[name] = (wave.float() + is_gain).view(value.shape)
    return found


@pytest.fixture
def file(tmp_path):
    """As published: weights and their average, among other things."""
    state = tiny_state()
    zero = {name: torch.zeros_like(value) for name, value in state.items()}
    held = {"model": zero, "model_ema": state, "epoch": 199, "optimizer": {"state": {}}}
    torch.save(held, tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def pictures():
    return (torch.arange(2 * 3 * 32 * 32) * 37 % 256).to(torch.uint8).view(2, 3, 32, 32)


def test_numbers_of_the_published_code(file):
    """Jiawei-Yang/DeTok:models/detok.py, tokenize and detokenize, with the same weights."""
    codec = CODECS["detok"](FACTS, path=str(file), **TINY)
    raw = codec.encode(pictures())
    assert raw.shape == (2, 4, 4, 4)
    wanted = torch.tensor([-1.03767, -0.78838, -0.00955, 0.79336])
    assert torch.allclose(raw[0, :, 1, 2], wanted, atol=2e-5)
    wanted = torch.tensor([-1.16129, -1.15821, -0.70101, -0.99403])
    assert torch.allclose(raw[1, 1, 0], wanted, atol=2e-5)
    assert raw.abs().mean().item() == pytest.approx(0.74166, abs=2e-5)
    back = codec.decode(raw).int()
    assert (back[0, :, 5, 7] - torch.tensor([152, 173, 185])).abs().max() <= 1
    assert (back[1, 0, 9, :6] - torch.tensor([81, 73, 124, 187, 131, 85])).abs().max() <= 1


BLOCK = {
    "norm1.weight": (768,),
    "norm2.weight": (768,),
    "attn.qkv.weight": (2304, 768),
    "attn.qkv.bias": (2304,),
    "attn.proj.weight": (768, 768),
    "attn.proj.bias": (768,),
    "mlp.w12.weight": (4096, 768),
    "mlp.w12.bias": (4096,),
    "mlp.w3.weight": (768, 2048),
    "mlp.w3.bias": (768,),
}
PUBLISHED = {  # detok-BB, 172 M
    "encoder.positional_embedding": (1, 256, 768),
    "encoder.patch_embed.0.weight": (768, 3, 16, 16),
    "encoder.patch_embed.0.bias": (768,),
    "encoder.ln_pre.weight": (768,),
    "encoder.ln_post.weight": (768,),
    "encoder.latent_head.weight": (32, 768),
    "encoder.latent_head.bias": (32,),
    "decoder.positional_embedding": (1, 256, 768),
    "decoder.mask_token": (1, 1, 768),
    "decoder.decoder_embed.weight": (768, 16),
    "decoder.decoder_embed.bias": (768,),
    "decoder.ln_pre.weight": (768,),
    "decoder.ln_post.weight": (768,),
    "decoder.ffn.1.weight": (768, 768, 1, 1),
    "decoder.ffn.1.bias": (768,),
    "decoder.conv_out.weight": (3, 3, 3, 3),
    "decoder.conv_out.bias": (3,),
    **{f"{side}.transformer.{n}.{name}": shape for side in ("encoder", "decoder")
       for n in range(12) for name, shape in BLOCK.items()},
}  # fmt: skip


def test_names_and_shapes_are_those_published():
    with torch.device("meta"):
        network = build_empty({name: torch.empty(shape) for name, shape in PUBLISHED.items()}, "it")
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == PUBLISHED
    assert sum(p.numel() for p in network.parameters()) == 171_712_628
    assert network.encoder.transformer[0].attn.heads == 12


def test_turns_are_right_at_the_corners():
    """Rows turn the first half of a head, columns the second; position 0 isn't turned."""
    cos, sin = rotations(8, 3)
    assert torch.allclose(cos[0], torch.ones(8))
    wave = 2 * torch.pi * torch.tensor([7.0, 7e-4, 7.0, 7e-4])
    assert torch.allclose(sin[1], torch.cat([torch.zeros(4), (wave / 2).sin()]), atol=1e-5)
    assert torch.allclose(sin[3], torch.cat([(wave / 2).sin(), torch.zeros(4)]), atol=1e-5)


def test_a_folder_with_the_file_and_safetensors(file, tmp_path):
    wanted = CODECS["detok"](FACTS, path=str(file), **TINY)
    inside = CODECS["detok"](FACTS, path=str(tmp_path), file="tiny.pth", **TINY)
    save_file(tiny_state(), tmp_path / "tiny.safetensors")
    plain = CODECS["detok"](FACTS, path=str(tmp_path / "tiny.safetensors"), **TINY)
    raw = wanted.encode(pictures())
    assert torch.equal(inside.encode(pictures()), raw)
    assert torch.equal(plain.encode(pictures()), raw)


def test_weights_are_read_at_first_use_and_only_whole(file, tmp_path):
    codec = CODECS["detok"](FACTS, path=str(file), **TINY)
    state = tiny_state()
    torch.save({k: v for k, v in state.items() if "proj.bias" not in k}, file)
    with pytest.raises(ValueError, match=r"missing: decoder\.transformer\.0\.attn\.proj\.bias"):
        codec.encode(pictures())
    torch.save({"model": {"conv.weight": torch.ones(1)}}, file)
    with pytest.raises(ValueError, match="has no l-DeTok"):
        codec.encode(pictures())
    torch.save({"model": {"x": Path("x")}}, file)  # a pickled object is not unpacked
    with pytest.raises(ValueError, match="can't be read as weights"):
        codec.encode(pictures())
    with pytest.raises(FileNotFoundError, match="has no detok-BB"):
        CODECS["detok"](FACTS, path=str(tmp_path))


def test_other_sizes_are_refused(file):
    codec = CODECS["detok"](FACTS, path=str(file), channels=4, patch=8, size=64)
    with pytest.raises(ValueError, match="32x32 pixels is wrong because codec=detok takes 64x64"):
        codec.encode(pictures())
    with pytest.raises(ValueError, match=r"Set codec\.size=32\."):
        codec.encode(pictures().repeat(1, 1, 2, 2))
