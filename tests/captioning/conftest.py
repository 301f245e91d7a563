"""Pictures, and a tiny vision-language model with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.captioning import model as captioner
from pathline.captioning.model import Answer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
            "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
TALK = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="session")
def talk():
    """The tiny models' chat template."""
    return TALK


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a Qwen3-VL of 40 thousand weights that knows single bytes."""
    import tokenizers
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    to = tmp_path_factory.mktemp("tiny-qwen3-vl")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate(SPECIALS + letters)}
    tokens = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS,
    )  # fmt: skip
    tokens.chat_template = TALK
    tokens.save_pretrained(to)
    area = {"shortest_edge": 64, "longest_edge": 1024}
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=area).save_pretrained(to)
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True,
            "rope_theta": 1e4}  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 48,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                     "head_dim": 16, "rope_parameters": rope},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
                       "patch_size": 4, "out_hidden_size": 32, "num_position_embeddings": 64,
                       "deepstack_visual_indexes": [0, 1]},
        image_token_id=5, video_token_id=6, vision_start_token_id=3, vision_end_token_id=4,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.Qwen3VLForConditionalGeneration(config)
    # so that noise ends soon, and as the instruction-tuned models come: with sampling on
    network.generation_config.update(
        eos_token_id=[2, *range(7, 120)], pad_token_id=0, do_sample=True, temperature=0.7, top_k=20
    )
    network.save_pretrained(to)
    return to


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of different shapes, the second with a person's caption."""
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    root.mkdir()
    for name, size in {"a.png": (20, 30), "b.png": (16, 8), "c.png": (64, 64)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name)
    (root / "b.txt").write_text("by hand\n", encoding="utf-8")
    return root


@pytest.fixture
def speaking(monkeypatch):
    """speaking(answers) -> calls; the model is a stand-in that gives the answers in turn."""

    def made(answer):
        calls = []

        def ask(images, prompts, seeds, temperature):
            calls.append((list(images), list(prompts), list(seeds), temperature))
            found = [answer(len(calls), n) for n in range(len(images))]
            return [a if isinstance(a, Answer) else Answer(a, True) for a in found]

        monkeypatch.setattr(captioner, "load_model", lambda *_, **__: ask)
        return calls

    return made


@pytest.fixture
def plain(tmp_path):
    file = tmp_path / "plain.txt"
    file.write_text("Say anything.", encoding="utf-8")
    return str(file)
