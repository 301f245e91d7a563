"""The model that captions, on tiny random ones of the real classes: asking it and refusing it."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pathline.captioning import model as captioner
from pathline.captioning.model import find_model
from pathline.recipes.caption import caption

transformers = pytest.importorskip("transformers")


def images(root):
    return [Image.open(path).convert("RGB") for path in sorted(root.glob("*.png"))]


def test_a_picture_is_answered_alike_alone_and_in_a_batch(tiny, pictures):
    ask = captioner.load_model(tiny, max_new_tokens=12)
    seen = images(pictures)
    asked = ["what is it?", "say more about what can be seen", "?"]
    for heat in (0.0, 1.0):
        together = ask(seen, asked, [1, 2, 3], heat)
        apart = [ask([seen[n]], [asked[n]], [n + 1], heat)[0] for n in range(3)]
        assert together == apart
        assert together == ask(seen, asked, [1, 2, 3], heat)
    assert ask(seen, asked, [4, 5, 6], 1.0) != together
    assert len({answer.text for answer in ask(seen, ["?"] * 3, [0, 0, 0], 0.0)}) > 1


def test_noise_draws_from_the_softmax():
    scores = torch.tensor([2.0, 0.0, 1.0, -float("inf")]).expand(4000, 4)
    rngs = [torch.Generator().manual_seed(n) for n in range(4000)]
    drawn = captioner._add_noise(scores, scores, rngs=rngs, temperature=0.5).argmax(1)
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, (scores[0] / 0.5).softmax(0), atol=0.03)


def test_another_family(tmp_path, pictures, talk):
    """A LLaVA, whose processor knows no videos and comes in one file."""
    import tokenizers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    known = {word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "<image>", *letters])}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(known, []))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    looks = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        looks, tokens, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=talk.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<image>"),
    ).save_pretrained(tmp_path / "llava")  # fmt: skip
    side = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2}  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**side, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(**side, vocab_size=len(known)),
        image_token_index=3, vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.LlavaForConditionalGeneration(config)
    network.generation_config.update(eos_token_id=[2, *range(4, 60)], pad_token_id=0)
    network.save_pretrained(tmp_path / "llava")
    ask = captioner.load_model(tmp_path / "llava", max_new_tokens=10)
    seen, asked = images(pictures)[:2], ["what is it?", "?"]
    apart = [ask([image], [words], [0], 0.0)[0] for image, words in zip(seen, asked, strict=True)]
    assert ask(seen, asked, [0, 0], 0.0) == apart


def test_what_goes_to_the_model(tiny, pictures):
    """Pictures, then words, in the model's own form; padded on the left."""
    processor = captioner._load_processor(tiny)
    inputs = captioner._prepare(processor, images(pictures), ["hi", "there", "x"])
    texts = processor.batch_decode(inputs["input_ids"])
    assert texts[0].endswith("<|vision_end|>hi<|im_end|>\n<|im_start|>assistant\n")
    assert inputs["input_ids"][:, -1].unique().numel() == 1
    assert inputs["attention_mask"][1, 0] == 0
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"


def test_models_that_cannot_be_had(tiny, pictures, tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(
        FileNotFoundError,
        match=r"no network.*`hf download Qwen/Nowhere .*then --model=Nowhere works",
    ):
        caption(pictures, model="Qwen/Nowhere")
    with pytest.raises(FileNotFoundError, match=r"--model=\./nowhere .* no such folder"):
        caption(pictures, model="./nowhere")
    cut = tmp_path / "cut"
    shutil.copytree(tiny, cut)
    (cut / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        caption(pictures, model=str(cut))


def test_other_models_than_these_are_refused(tiny, tmp_path):
    text = tmp_path / "text"
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    transformers.LlamaForCausalLM(config).save_pretrained(text)
    with pytest.raises(ValueError, match="can't be read by AutoModelForImageTextToText"):
        captioner.load_model(text)
    mute = tmp_path / "mute"
    shutil.copytree(tiny, mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        captioner.load_model(mute)


def test_missing_weights_are_an_error(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    hole = tmp_path / "hole"
    shutil.copytree(tiny, hole)
    weights = load_file(hole / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != name}, hole / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=r"1 weights of .*missing: .*mlp"):
        captioner.load_model(hole)
    assert find_model(str(hole))[1] != find_model(str(tiny))[1]


def test_without_transformers_the_install_line_is_told(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'pathline\[caption\]'"):
        captioner.load_model(Path(tiny))
