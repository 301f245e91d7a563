"""A KL-VAE in one file, in both families of names."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathline.codecs.table import CODECS
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
TINY = {
    "block_out_channels": (32, 64, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 32,  # as every published one
}


def saved(folder, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderKL(**TINY, **options).save_pretrained(folder)
    return diffusers.AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()


def pictures():
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=rng)


def of(path, **options):
    return CODECS["kl"](Facts(3, 16, 16), path=str(path), **options)


LDM = (  # what diffusers calls a part -> what latent diffusion calls it
    (r"encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.0\.resnets\.", r"decoder.up.2.block."),
    (r"decoder\.up_blocks\.2\.resnets\.", r"decoder.up.0.block."),
    (r"decoder\.up_blocks\.1\.resnets\.", r"decoder.up.1.block."),
    (r"decoder\.up_blocks\.0\.upsamplers\.0", r"decoder.up.2.upsample"),
    (r"decoder\.up_blocks\.1\.upsamplers\.0", r"decoder.up.1.upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_norm_out", "norm_out"),
)


def ldm(state, prefix=""):
    found = {}
    for name, value in state.items():
        for theirs, old in LDM:
            name = re.sub(theirs, old, name)
        is_turned = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        found[prefix + name] = value[..., None, None].contiguous() if is_turned else value
    return found


@pytest.mark.parametrize("names", ["diffusers", "ldm", "a whole model"])
def test_a_single_file(tmp_path, names):
    theirs = saved(tmp_path / "folder")
    state = load_file(tmp_path / "folder" / "diffusion_pytorch_model.safetensors")
    if names != "diffusers":
        state = ldm(state, "first_stage_model." if names == "a whole model" else "")
    if names == "a whole model":
        state["model.diffusion_model.out.weight"] = torch.ones(1)
    file = tmp_path / "mine.safetensors"
    save_file(state, file)
    with pytest.raises(ValueError, match=r"codec\.scale .*0\.13025 for SDXL"):
        of(file)  # SD's and SDXL's files have the same shapes: only a person knows
    codec = of(file, scale=0.13025)
    assert codec.std[0] == pytest.approx(1 / 0.13025)
    with torch.no_grad():
        z = theirs.encode(pictures().float() / 127.5 - 1).latent_dist.mode()
        back = theirs.decode(z).sample
    assert torch.equal(codec.encode(pictures()), z)
    assert torch.equal(codec.decode(z), (back.add(1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def test_a_single_file_beside_its_config(tmp_path):
    saved(tmp_path, scaling_factor=0.13025)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "eq.safetensors")
    codec = of(tmp_path / "eq.safetensors")
    assert codec.std[0] == pytest.approx(1 / 0.13025)
    assert codec.encode(pictures()).shape == (2, 4, 4, 6)


def test_a_file_of_something_else(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="has no KL-VAE"):
        of(tmp_path / "lora.safetensors", scale=1.0)
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match=r"is no \.safetensors file"):
        of(tmp_path / "text.safetensors", scale=1.0)
