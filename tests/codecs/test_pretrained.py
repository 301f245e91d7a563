"""Codecs with published weights: laziness, complete weights, sizes, ids, and being out of reach."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathline import hub
from pathline.codecs.table import CODECS
from pathline.types import Facts

diffusers = pytest.importorskip("diffusers")
FACTS = Facts(3, 16, 16)
NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
        diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=kind[0], up_block_types=kind[1],
            norm_num_groups=4,
        ).save_pretrained(tmp_path / "tiny")  # fmt: skip
    return tmp_path / "tiny"


def of(folder, facts=FACTS, **options):
    return CODECS["kl"](facts, path=str(folder), **options)


def pictures(height=8, width=8):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=rng)


def test_the_row_reads_no_weights(folder):
    (folder / NAME).unlink()
    codec = of(folder)
    assert (codec.channels, codec.factor, codec.mean.shape) == (4, 2, (4,))
    with pytest.raises(FileNotFoundError, match=f"has no {NAME}; it holds config.json"):
        codec.encode(pictures())


def test_weights_load_once(folder, monkeypatch):
    codec, calls, load = of(folder), [], hub.load_model
    monkeypatch.setattr(hub, "load_model", lambda *a, **o: calls.append(1) or load(*a, **o))
    raw = codec.encode(pictures())
    codec.decode(raw)
    assert torch.equal(codec.encode(pictures()), raw)
    assert len(calls) == 1


def test_global_chance_is_left_alone(folder):
    codec, before = of(folder), torch.get_rng_state()
    codec.encode(pictures())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_go_where_to_says(folder):
    codec = of(folder)
    codec.to(torch.device("meta"))
    with pytest.raises(RuntimeError, match="meta"):
        codec.encode(pictures())  # which lie on the CPU
    again = of(folder)
    raw = again.encode(pictures())
    again.to(torch.device("meta"))  # after loading, too
    with pytest.raises(RuntimeError, match="meta"):
        again.decode(raw)


def test_no_gradient_is_kept(folder):
    raw = of(folder).encode(pictures())
    assert not raw.requires_grad
    assert not raw.is_inference()  # a loss may be taken of it


@pytest.mark.parametrize("size", [(9, 8), (8, 7)])
def test_odd_sizes_are_refused(folder, size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} pixels.*multiples of 2"):
        of(folder).encode(pictures(*size))


def test_grey_pictures_are_refused(folder):
    with pytest.raises(ValueError, match=r"Set data\.channels=3"):
        of(folder, Facts(1, 16, 16))


def change(folder, new):
    state = load_file(folder / NAME)
    save_file(new(state), folder / NAME, {"format": "pt"})


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (lambda s: {k: v for k, v in s.items() if "quant_conv" not in k}, "missing: .*quant_conv"),
        (lambda s: {**s, "lora.weight": torch.ones(1)}, "unexpected: lora.weight"),
        (lambda s: {**s, "quant_conv.bias": torch.ones(1)}, "quant_conv.bias"),
    ],
    ids=["missing", "unexpected", "another shape"],
)
def test_incomplete_weights_are_refused(folder, new, told):
    change(folder, new)
    with pytest.raises(ValueError, match=told):
        of(folder).encode(pictures())


def test_torn_weights_are_refused(folder):
    (folder / NAME).write_bytes(b"torn")
    with pytest.raises(ValueError, match="can't be read by AutoencoderKL"):
        of(folder).encode(pictures())


def test_numbers_that_are_not_finite_are_told(folder):
    change(folder, lambda state: {k: v * 1e30 for k, v in state.items()})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"force_upcast": False}))
    with pytest.raises(
        ValueError, match=r"codec.dtype=fp16 .* not finite when encoding\. Use codec.dtype=fp32"
    ):
        of(folder, dtype="fp16").encode(pictures())


def test_the_id_names_the_weights(folder, tmp_path):
    first = of(folder).id
    assert first.startswith("kl@")
    moved = folder.rename(tmp_path / "another name")
    assert of(moved).id == first  # where it lies changes no latent
    assert of(moved, dtype="bf16").id == f"{first},dtype=bf16"
    change(moved, lambda state: {k: v + 1e-3 for k, v in state.items()})
    assert of(moved).id != first


# --- out of reach ---------------------------------------------------------------------------------


def test_offline_says_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as told:
        CODECS["kl"](FACTS, path="nobody/nothing/vae")
    message = str(told.value)
    assert "codec.path=nobody/nothing/vae is no folder, not whole in the hub's cache" in message
    assert "`hf download nobody/nothing --local-dir nothing`" in message
    assert "codec.path=nothing/vae works offline" in message


def test_an_unreachable_hub_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def dead(*_, **__):
        asked.append(1)
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", dead)
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="OSError: no route"):
        CODECS["kl"](FACTS, path="nobody/nothing")
    assert asked == [1]
    assert time.perf_counter() - began < 2


def test_the_hubs_cache_is_enough(monkeypatch, tmp_path, folder):
    cache = tmp_path / "cache"
    held = cache / "models--nobody--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text(commit)
    (held / "snapshots" / commit).mkdir(parents=True)
    folder.rename(held / "snapshots" / commit / "vae")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    codec = CODECS["kl"](FACTS, path="nobody/tiny/vae")
    assert codec.id == "kl:nobody/tiny/vae@0123456789ab"
    assert codec.encode(pictures()).shape == (1, 4, 4, 4)
    pinned = CODECS["kl"](FACTS, path=f"nobody/tiny/vae@{commit}")
    assert pinned.id == codec.id


@pytest.mark.parametrize("path", ["./missing", "/nowhere/at/all", "missing", "~/no such"])
def test_a_missing_folder_is_no_name_on_the_hub(path):
    with pytest.raises(FileNotFoundError, match=r"no such folder, and it is no name on the hub"):
        CODECS["kl"](FACTS, path=path)


def test_without_diffusers_the_install_line_is_told(monkeypatch, folder):
    import sys

    codec = of(folder)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'pathline\[codecs\]'"):
        codec.encode(pictures())
