"""KL autoencoders: tiny random models of diffusers' own classes, read through the row."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.table import CODECS
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
FACTS = Facts(3, 16, 16)
TINY = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
}
QWEN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 2], "num_res_blocks": 1,
        "temperal_downsample": [False, True]}  # fmt: skip


def saved(folder, kind="AutoencoderKL", **options):
    """A random model, its attention and batch norm awake; returned as diffusers reads it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(diffusers, kind)(**options)
        if hasattr(network, "bn"):
            network.bn.running_mean.normal_()
            network.bn.running_var.uniform_(0.5, 2.0)
        network.save_pretrained(folder)
    return getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def pictures(height=16, width=24, n=2):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=rng)


def signed(pixels):
    return pixels.float() / 127.5 - 1


def to_bytes(x):
    return (x.add(1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def of(folder, **options):
    return CODECS["kl"](FACTS, path=str(folder), **options)


SHIFTED = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "latent_channels": 16,
           "use_quant_conv": False, "use_post_quant_conv": False}  # FLUX.1's  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"scaling_factor": 0.13025}, SHIFTED])
def test_kl_is_diffusers_own_result(tmp_path, options):
    theirs = saved(tmp_path, **TINY, **{"latent_channels": 4, **options})
    codec = of(tmp_path)
    assert (codec.channels, codec.factor) == (options.get("latent_channels", 4), 4)
    with torch.no_grad():
        z = theirs.encode(signed(pictures())).latent_dist.mean
        back = theirs.decode(z).sample
    raw = codec.encode(pictures())
    assert raw.shape == (2, codec.channels, 4, 6)
    assert torch.equal(raw, z)
    assert torch.equal(codec.decode(raw), to_bytes(back))
    scale, shift = options.get("scaling_factor", 0.18215), options.get("shift_factor", 0.0)
    assert torch.allclose(normalise(codec, raw), (z - shift) * scale, atol=1e-5)
    assert torch.allclose(denormalise(codec, normalise(codec, raw)), raw, atol=1e-5)


def test_latents_mean_and_std_are_sdxls_convention(tmp_path):
    mean, std = [-1.6, 1.9, -1.4, 2.5], [8.5, 5.9, 6.3, 5.3]
    saved(tmp_path, **TINY, latents_mean=mean, latents_std=std, scaling_factor=0.5)
    codec = of(tmp_path)
    x1 = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    column = [torch.tensor(s).view(1, 4, 1, 1) for s in (mean, std)]
    assert torch.allclose(denormalise(codec, x1), x1 * column[1] / 0.5 + column[0])


@pytest.mark.parametrize("path", ["pipe/vae", "pipe"])
def test_a_codec_inside_a_pipeline(tmp_path, path):
    saved(tmp_path / "pipe" / "vae", **TINY)
    if path == "pipe":
        with pytest.raises(FileNotFoundError, match=r"no config.json.*Did you mean .*pipe/vae\?"):
            of(tmp_path / path)
    else:
        assert of(tmp_path / path).factor == 4


def flux2(folder):
    return saved(folder, "AutoencoderKLFlux2", **TINY, latent_channels=4)


def test_flux2_is_the_pipelines_patches_and_batch_norm(tmp_path):
    from diffusers import Flux2Pipeline

    theirs, codec = flux2(tmp_path), of(tmp_path)
    assert (codec.channels, codec.factor) == (16, 8)
    with torch.no_grad():
        z = Flux2Pipeline._patchify_latents(theirs.encode(signed(pictures())).latent_dist.mode())
        mean = theirs.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(theirs.bn.running_var.view(1, -1, 1, 1) + theirs.config.batch_norm_eps)
        wanted = (z - mean) / std
        back = theirs.decode(Flux2Pipeline._unpatchify_latents(wanted * std + mean)).sample
    raw = codec.encode(pictures())
    assert raw.shape == (2, 16, 2, 3)
    assert torch.equal(normalise(codec, raw), wanted)
    assert torch.equal(codec.decode(raw), to_bytes(back))


def test_flux2_keeps_its_batch_norm_in_float32(tmp_path):
    theirs = flux2(tmp_path)
    raw = of(tmp_path, dtype="bf16").encode(pictures())
    with torch.no_grad():
        z = theirs.bfloat16().encode(signed(pictures()).bfloat16()).latent_dist.mode().float()
    z = torch.nn.functional.pixel_unshuffle(z, 2)
    bn = flux2(tmp_path).bn
    wanted = (z - bn.running_mean.view(-1, 1, 1)) / (bn.running_var + 1e-4).sqrt().view(-1, 1, 1)
    assert torch.allclose(raw, wanted, atol=1e-6)


def test_qwen_image_is_a_film_of_one_frame(tmp_path):
    mean, std = [0.1, -0.2, 0.3, 1.0], [2.8, 1.4, 2.3, 2.6]
    theirs = saved(tmp_path, "AutoencoderKLQwenImage", **QWEN, latents_mean=mean, latents_std=std)
    codec = of(tmp_path)
    assert (codec.channels, codec.factor) == (4, 4)
    with torch.no_grad():
        z = theirs.encode(signed(pictures()).unsqueeze(2)).latent_dist.mode()
        back = theirs.decode(z).sample[:, :, 0]
    raw = codec.encode(pictures())
    assert torch.equal(raw, z[:, :, 0])
    assert torch.equal(codec.decode(raw), to_bytes(back))
    assert torch.allclose(codec.mean, torch.tensor(mean))
    assert torch.allclose(codec.std, torch.tensor(std))


# --- what changes a latent, and what must not pass silently ---------------------------------------


def test_reflect_padding_changes_latents_and_the_id(tmp_path):
    theirs = saved(tmp_path, **TINY)
    for part in theirs.modules():
        if isinstance(part, torch.nn.Conv2d) and part.padding != (0, 0):
            part.padding_mode = "reflect"
    zeros, reflect = of(tmp_path), of(tmp_path, padding="reflect")
    with torch.no_grad():
        wanted = theirs.encode(signed(pictures())).latent_dist.mode()
    assert torch.equal(reflect.encode(pictures()), wanted)
    assert not torch.equal(zeros.encode(pictures()), wanted)
    assert zeros.id != reflect.id
    assert zeros.id == of(tmp_path).id


def test_tiles_work_on_large_pictures_piecewise(tmp_path):
    saved(tmp_path, **TINY, sample_size=16)
    whole, tiled = of(tmp_path), of(tmp_path, tiles=True)
    big = pictures(32, 48, n=1)
    assert tiled.encode(big).shape == whole.encode(big).shape
    assert not torch.equal(tiled.encode(big), whole.encode(big))
    assert tiled.decode(tiled.encode(big)).shape == big.shape
    assert tiled.id != whole.id


def test_fp16_is_refused_where_config_forces_upcasting(tmp_path):
    saved(tmp_path / "sdxl", **TINY)
    saved(tmp_path / "fixed", **TINY, force_upcast=False)
    with pytest.raises(ValueError, match=r"dtype=fp16.*force_upcast.*bf16"):
        of(tmp_path / "sdxl", dtype="fp16")
    fixed = of(tmp_path / "fixed", dtype="fp16")
    whole = of(tmp_path / "fixed").encode(pictures())
    assert (fixed.encode(pictures()) - whole).abs().max() < 0.02
    assert not torch.equal(fixed.encode(pictures()), whole)


def test_autocast_around_does_not_reach_the_codec(tmp_path):
    saved(tmp_path, **TINY)
    codec = of(tmp_path)
    plain = codec.encode(pictures())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(pictures()), plain)
        inside = codec.decode(plain)
    assert torch.equal(inside, codec.decode(plain))


def rewrite(folder, change):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def test_an_unknown_scale_is_asked_for(tmp_path):
    saved(tmp_path, **TINY, **SHIFTED)
    rewrite(tmp_path, lambda config: config.pop("scaling_factor"))
    with pytest.raises(ValueError, match=r"no scaling_factor\. Set codec\.scale"):
        of(tmp_path)
    codec = of(tmp_path, scale=0.5, shift=0.25)
    assert torch.allclose(codec.std, torch.full((16,), 2.0))
    assert torch.allclose(codec.mean, torch.full((16,), 0.25))
    with pytest.raises(ValueError, match="above 0"):
        of(tmp_path, scale=0.0)


def test_stable_diffusions_old_config_has_no_scale(tmp_path):
    saved(tmp_path, **TINY)
    rewrite(tmp_path, lambda config: config.pop("scaling_factor"))
    assert of(tmp_path).std[0] == pytest.approx(1 / 0.18215)


def test_old_names_of_the_attention_are_read(tmp_path):
    """sd-vae-ft-mse lies on the hub so."""
    theirs = saved(tmp_path, **TINY)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(file)
    for new, name in old.items():
        state = {k.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v
                 for k, v in state.items()}  # fmt: skip
    assert any("proj_attn" in name for name in state)
    save_file(state, file, {"format": "pt"})
    with torch.no_grad():
        wanted = theirs.encode(signed(pictures())).latent_dist.mode()
    assert torch.equal(of(tmp_path).encode(pictures()), wanted)


@pytest.mark.parametrize("kind", ["AutoencoderDC", "UNet2DModel"])
def test_another_class_is_refused(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    hint = "Set codec=dcae" if kind == "AutoencoderDC" else "AutoencoderKLFlux2"
    with pytest.raises(ValueError, match=f"is of a {kind}.*{hint}"):
        of(tmp_path)


def test_flux2_takes_no_constants(tmp_path):
    flux2(tmp_path)
    with pytest.raises(ValueError, match=r"codec\.scale .* batch norm .*Leave them out"):
        of(tmp_path, scale=0.5)
