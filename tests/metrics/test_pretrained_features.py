"""DINOv2 and CLIP: small random models of transformers, read through the door users use."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathline.metrics.clip_score import clip_score
from pathline.metrics.feature import resized
from pathline.metrics.pretrained_features import clip, dinov2

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=7
    )
    return saved(transformers.Dinov2Model, config, tmp_path_factory.mktemp("tiny-dino"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    side = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"}
    numbers = {word: number for number, word in enumerate(sorted(words))}
    ends = {"bos_token_id": numbers["<|startoftext|>"], "eos_token_id": numbers["<|endoftext|>"]}
    config = transformers.CLIPConfig(
        text_config={**side, "vocab_size": len(words), "max_position_embeddings": 12, **ends},
        vision_config={**side, "image_size": 28, "patch_size": 7},
        projection_dim=10,
    )
    folder = saved(transformers.CLIPModel, config, tmp_path_factory.mktemp("tiny-clip"))
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def saved(kind, config, folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    return folder


def pictures(n=5, c=3):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, c, 20, 20), dtype=torch.uint8, generator=rng)


def normal(square, mean, std):
    return (square / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("resize", ["clean", "bilinear"])
def test_dinov2_is_the_class_token(dino, resize):
    feature = dinov2(pictures(), None, CPU, model=str(dino), size=28, resize=resize, batch=2)
    assert feature.name == f"{dino.name}-{resize}28"
    network = transformers.Dinov2Model.from_pretrained(dino).eval()
    x = normal(resized(pictures(), 28, resize), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        wanted = network(x).pooler_output  # which is the class token
    assert torch.allclose(feature.embed(pictures()), wanted, atol=1e-5)
    assert feature.embed(pictures(c=1)).shape == (5, feature.width)


def test_clip_is_the_projected_picture(pair):
    feature = clip(pictures(), None, CPU, model=str(pair), batch=2)
    assert (feature.name, feature.width) == (f"{pair.name}-clean28", 10)
    network = transformers.CLIPModel.from_pretrained(pair).eval()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        seen = network.vision_model(normal(resized(pictures(), 28, "clean"), mean, std))
        wanted = network.visual_projection(seen.pooler_output)
    found = feature.embed(pictures())
    assert torch.allclose(found, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-5)


def test_clip_score_is_the_models_own(pair):
    captions = ["a red dog", "cat", "a red dog", "b", "the sun"]
    found = clip_score(pictures(), captions, CPU, model=str(pair), batch=2)
    network = transformers.CLIPModel.from_pretrained(pair).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(pair)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        out = network(
            **tokenizer(captions, padding=True, return_tensors="pt"),
            pixel_values=normal(resized(pictures(), 28, "clean"), mean, std),
        )
    wanted = 100 * out.logits_per_image.diagonal() / network.logit_scale.exp()
    assert torch.allclose(found.pictures, wanted.double(), atol=1e-3)
    assert found.mean == pytest.approx(wanted.mean().item(), abs=1e-3)
    assert (found.cut, found.name) == (0, f"{pair.name}-clean28")


def test_a_caption_knows_its_picture(pair):
    captions = ["red", "dog", "sun", "cat", "tree"]
    found = [clip_score(pictures(), turned, CPU, model=str(pair)).pictures for turned in
             (captions, captions[1:] + captions[:1])]  # fmt: skip
    assert not torch.allclose(*found)


def test_long_captions_are_cut_and_counted(pair):
    captions = ["a dog", "an extraordinarily long caption of a dog in a park", "b", "c", "d"]
    found = clip_score(pictures(), captions, CPU, model=str(pair))
    assert found.cut == 1
    assert found.pictures.isfinite().all()


def test_wrong_numbers_of_captions(pair):
    with pytest.raises(ValueError, match="1 captions for 5 images"):
        clip_score(pictures(), ["a"], CPU, model=str(pair))


def copy(folder, to, change):
    """The model with its weights changed."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    save_file(
        change(load_file(to / "model.safetensors")), to / "model.safetensors", {"format": "pt"}
    )
    return to


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {k: v for k, v in state.items() if "layernorm" not in k},
        lambda state: {k: v[..., :1].clone() if "layernorm" in k else v for k, v in state.items()},
    ],
    ids=["missing", "another shape"],
)
def test_missing_weights_are_refused(dino, tmp_path, change):
    broken = copy(dino, tmp_path, change)
    with pytest.raises(ValueError, match=r"layernorm|shape|can't be read"):
        dinov2(pictures(), None, CPU, model=str(broken), size=28)


def test_a_size_of_broken_patches_is_refused(dino):
    with pytest.raises(ValueError, match=r"size=30 is wrong because .* has patches of 7"):
        dinov2(pictures(), None, CPU, model=str(dino), size=30)


def test_another_model_is_refused(dino, pair):
    with pytest.raises(ValueError, match=r"is a 'dinov2' model\. Take one of the kind 'clip'"):
        clip(pictures(), None, CPU, model=str(dino))
    with pytest.raises(ValueError, match="is a 'clip' model"):
        dinov2(pictures(), None, CPU, model=str(pair))


def test_unreadable_weights_say_what_to_do(dino, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such folder.*features=pca"):
        dinov2(pictures(), None, CPU, model=str(tmp_path / "nothing"))
    torn = copy(dino, tmp_path, lambda state: state)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="can't be read by AutoModel"):
        dinov2(pictures(), None, CPU, model=str(torn))


def test_without_transformers_the_install_line_is_told(monkeypatch, dino):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'pathline\[eval\]'"):
        dinov2(pictures(), None, CPU, model=str(dino))
