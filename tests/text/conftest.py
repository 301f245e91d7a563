"""Small random checkpoints of the real classes, with tokenizers, as they lie on a disk."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from pathline.config.pick import function_of
from pathline.text.table import TEXTS
from pathline.types import Facts

WORDS = "a red blue green circle square star left right of over under and the in on it is no yes"
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
VOCAB = 32
SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24}
HEADS = {"num_hidden_layers": 3, "num_attention_heads": 2}
GROUPED = {**SIZES, **HEADS, "num_key_value_heads": 1, "head_dim": 8}
EYE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
EYES = {**EYE, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TOWER = {**SIZES, **HEADS, "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 1}
T5 = {"vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2}
ENDED, STARTED, BOTH, BARE = "$A <eos>", "<bos> $A", "<bos> $A <eos>", "$A"
CHAT = (
    "{% for m in messages %}it is {{ m.content }}{% endfor %}"
    "{% if enable_thinking and add_generation_prompt %} yes{% endif %}"
)


ROWS = {  # checkpoint -> the row that reads it, and how
    "t5": ("t5", {}),
    "t5-v1.1": ("t5", {}),
    "t5gemma": ("t5gemma", {"dtype": "fp32"}),
    "t5gemma2": ("t5gemma2", {"dtype": "fp32"}),
    "clip": ("clip", {"length": 12}),
    "siglip": ("siglip2", {}),
    "siglip2": ("siglip2", {}),
    "gemma2": ("hidden", {"dtype": "fp32"}),
    "gemma3": ("hidden", {"dtype": "fp32"}),
    "qwen3": ("hidden", {"dtype": "fp32"}),
    "qwen3_vl": ("hidden", {"dtype": "fp32"}),
    "bert": ("encoder", {"length": 24}),
}


class Maker(NamedTuple):
    """How a checkpoint is made, and which part of the whole model its encoder must equal."""

    whole: Callable[[Any], Any]  # transformers -> the model that is saved
    part: str  # of it, dotted
    frame: str  # what the tokenizer puts around a caption


class Checkpoint(NamedTuple):
    folder: Any
    whole: Any
    part: Any


def t5gemma2(t):
    sides = {"text_config": GROUPED, "vision_config": EYES, "mm_tokens_per_image": 4}
    config = t.T5Gemma2Config(
        encoder=sides, decoder=GROUPED, eoi_token_index=30, image_token_index=31
    )
    return t.T5Gemma2ForConditionalGeneration(config)


def qwen3_vl(t):
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    eyes |= {"out_hidden_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = t.Qwen3VLConfig(text_config=GROUPED | {"rope_scaling": rope}, vision_config=eyes)
    return t.Qwen3VLForConditionalGeneration(config)


def gemma3(t):
    text = GROUPED | {"sliding_window": 4}
    config = t.Gemma3Config(
        text_config=text, vision_config=EYES, mm_tokens_per_image=4, image_token_index=31
    )
    return t.Gemma3ForConditionalGeneration(config)


def towers(kind, eyes):
    def make(t):
        config = getattr(t, f"{kind}Config")(text_config=TOWER, vision_config=eyes)
        config.projection_dim = 10
        return getattr(t, f"{kind}Model")(config)

    return make


MAKERS = {
    "t5": Maker(lambda t: t.T5ForConditionalGeneration(t.T5Config(**T5)), "encoder", ENDED),
    "t5-v1.1": Maker(
        lambda t: t.T5ForConditionalGeneration(
            t.T5Config(**T5, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
        ),
        "encoder",
        ENDED,
    ),
    "t5gemma": Maker(
        lambda t: t.T5GemmaForConditionalGeneration(
            t.T5GemmaConfig(encoder=GROUPED, decoder=GROUPED, vocab_size=VOCAB)
        ),
        "model.encoder",
        STARTED,
    ),
    "t5gemma2": Maker(t5gemma2, "model.encoder", STARTED),
    "clip": Maker(towers("CLIP", EYES), "text_model", BOTH),
    "siglip": Maker(towers("Siglip", EYES), "text_model", ENDED),
    "siglip2": Maker(
        towers("Siglip2", {**EYE, "num_attention_heads": 2, "num_patches": 4, "patch_size": 14}),
        "text_model",
        ENDED,
    ),
    "gemma2": Maker(
        lambda t: t.Gemma2ForCausalLM(t.Gemma2Config(**GROUPED, sliding_window=4)),
        "model",
        STARTED,
    ),
    "gemma3": Maker(gemma3, "model.language_model", STARTED),
    "qwen3": Maker(lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED)), "model", BARE),
    "qwen3_vl": Maker(qwen3_vl, "model.language_model", BARE),
    "bert": Maker(
        lambda t: t.BertForMaskedLM(
            t.BertConfig(**SIZES, **HEADS, max_position_embeddings=24, pad_token_id=0)
        ),
        "bert",
        BOTH,
    ),
}


def tokenizer(transformers, frame):
    """Word by word; padding on the left, as Gemma's, which nothing here may depend on."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS.split()])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(word, vocab[word]) for word in ("<bos>", "<eos>")]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side="left", chat_template=CHAT, **SPECIAL
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Name of a maker -> a checkpoint on disk, made once."""
    transformers = pytest.importorskip("transformers")

    @cache
    def made(kind):
        folder = tmp_path_factory.mktemp(kind)
        maker, before = MAKERS[kind], transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            whole = maker.whole(transformers).eval()
            for weight in whole.parameters():  # far enough from 0 for layers to be told apart
                torch.nn.init.normal_(weight, std=0.2)
        whole.save_pretrained(folder)
        tokenizer(transformers, maker.frame).save_pretrained(folder)
        transformers.utils.logging.set_verbosity(before)
        part = whole
        for step in maker.part.split("."):
            part = getattr(part, step)
        return Checkpoint(folder, whole, part)

    return made


@pytest.fixture(scope="session")
def text(checkpoints):
    """Name of a maker and options -> the Text of its row, made once."""

    @cache
    def made(kind, **options):
        row, usual = ROWS[kind]
        path = str(checkpoints(kind).folder)
        return function_of(TEXTS[row])(Facts(3, 8, 8), path=path, **{**usual, **options})

    return made
