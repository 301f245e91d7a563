"""The tiny family: AutoencoderTiny, and TAEF2 on its real weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pathline.codecs.normalise import denormalise, normalise
from pathline.codecs.table import CODECS
from pathline.codecs.taesd import PAIR, Tiny
from pathline.data.transforms import decode
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
FACTS = Facts(3, 16, 16)
SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL = SHARED / "weights" / "taef2"


def pictures(height=16, width=24):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=rng)


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_taesd_is_diffusers_own_result(tmp_path, shift):
    options = {"latent_channels": 16, "shift_factor": shift, "encoder_block_out_channels": (8,) * 3,
               "decoder_block_out_channels": (8,) * 3, "num_encoder_blocks": (1,) * 3,
               "num_decoder_blocks": (1,) * 3}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderTiny(**options).save_pretrained(tmp_path)
    theirs = diffusers.AutoencoderTiny.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    codec = CODECS["taesd"](FACTS, path=str(tmp_path))
    assert (codec.channels, codec.factor) == (16, 4)
    with torch.no_grad():
        z = theirs.encode(pictures().float() / 127.5 - 1).latents
        back = theirs.decode(z).sample
    raw = codec.encode(pictures())
    assert torch.equal(raw, z)
    wanted = (back.add(1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(codec.decode(raw), wanted)
    assert torch.allclose(normalise(codec, raw), z - shift)


@pytest.fixture(scope="module")
def random_taef2(tmp_path_factory):
    """Random weights as they lie on GitHub."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny()
    folder = tmp_path_factory.mktemp("taef2")
    for name, part in zip(PAIR, (network.encoder, network.decoder), strict=True):
        torch.save({key: value.half() for key, value in part.state_dict().items()}, folder / name)
    return folder


def test_taef2_reads_no_weights_until_it_must(tmp_path):
    (tmp_path / "empty").mkdir()
    codec = CODECS["taef2"](FACTS, path=str(tmp_path / "empty"))
    assert (codec.channels, codec.factor) == (32, 8)
    with pytest.raises(FileNotFoundError, match=r"neither taef2_enc.*nor taef2\.safe"):
        codec.encode(pictures())


def test_taef2_as_the_hub_has_it(random_taef2, tmp_path):
    """One file, its layers counted as diffusers counts them."""
    state = {}
    for side, name in zip(("encoder", "decoder"), PAIR, strict=True):
        for key, value in torch.load(random_taef2 / name, weights_only=True).items():
            number, rest = key.split(".", 1)
            state[f"{side}.layers.{int(number) - (side == 'decoder')}.{rest}"] = value
    save_file(state, tmp_path / "taef2.safetensors")
    of_pair = CODECS["taef2"](FACTS, path=str(random_taef2))
    of_whole = CODECS["taef2"](FACTS, path=str(tmp_path))
    raw = of_pair.encode(pictures())
    assert raw.is_contiguous()
    assert torch.equal(of_whole.encode(pictures()), raw)
    assert torch.equal(of_whole.decode(raw), of_pair.decode(raw))


def test_taef2_refuses_half_of_it_and_other_weights(random_taef2, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / PAIR[0]).write_bytes((random_taef2 / PAIR[0]).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no taef2_decoder\.pth"):
        CODECS["taef2"](FACTS, path=str(half)).encode(pictures())
    state = torch.load(random_taef2 / PAIR[1], weights_only=True)
    torch.save({k: v for k, v in state.items() if "pool" not in k}, half / PAIR[1])
    with pytest.raises(ValueError, match=r"missing: decoder\.3\.pool"):
        CODECS["taef2"](FACTS, path=str(half)).encode(pictures())
    torch.save({"evil": Path("x")}, half / PAIR[1])  # a pickled object is not unpacked
    with pytest.raises(ValueError, match="can't be read as weights"):
        CODECS["taef2"](FACTS, path=str(half)).encode(pictures())


@pytest.mark.shared
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared")
def test_taef2_on_its_real_weights():
    codec = CODECS["taef2"](FACTS, path=str(REAL))
    files = sorted((SHARED / "data" / "emoji").rglob("*.png"))[::1200]
    pixels = torch.stack([decode(file) for file in files])
    raw = codec.encode(pixels)
    assert raw.shape == (len(files), 32, 16, 16)
    back = codec.decode(denormalise(codec, normalise(codec, raw)))
    error = (pixels.float() - back.float()).div(255).square().mean().item()
    assert 2e-4 < error < 1.5e-3
    assert raw.mean().abs() < 0.1
    assert 0.6 < raw.std() < 0.95
    wrong = codec.decode(raw.flip(1))  # a control: channels in another order are no picture
    assert (pixels.float() - wrong.float()).div(255).square().mean() > 0.02
