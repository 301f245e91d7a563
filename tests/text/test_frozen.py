"""Frozen encoders: small random checkpoints of the real classes, by the door users use."""

import warnings

import pytest
import torch

from pathline.text import states
from pathline.text.loading import find_encoder, load_encoder
from pathline.text.table import TEXTS
from pathline.types import Facts

transformers = pytest.importorskip("transformers")
FACTS = Facts(3, 8, 8)
CAPTIONS = ["a red circle", "a blue square left of the green star", "star"]
FULL = 12  # what SigLIP always reads here
HIDDEN = ("gemma2", "gemma3", "qwen3", "qwen3_vl")  # hidden layers of language models
TOWERS = ("clip", "siglip", "siglip2")
KINDS = ("t5", "t5-v1.1", "t5gemma", "t5gemma2", *TOWERS, *HIDDEN, "bert")
every = pytest.mark.parametrize("kind", KINDS)


def numbers(folder, captions, full=0):
    """Tokens and mask, padded on the right by hand."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(caption)["input_ids"] for caption in captions]
    longest = full or max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[at < len(row) for at in range(longest)] for row in rows])


@torch.no_grad()
def reference(checkpoint, captions, layer, full=0):
    ids, mask = numbers(checkpoint.folder, captions, full)
    given = {} if full else {"attention_mask": mask}
    out = checkpoint.part(input_ids=ids, output_hidden_states=True, **given)
    return (out.last_hidden_state if layer == -1 else out.hidden_states[layer]), mask, out


@every
def test_states_are_the_whole_models_bit_for_bit(checkpoints, text, kind):
    layer = -2 if kind in HIDDEN else -1
    full = FULL if kind.startswith("siglip") else 0
    for captions in (CAPTIONS[:1], CAPTIONS[1:2], sorted(CAPTIONS, key=len)):
        wanted, mask, _ = reference(checkpoints(kind), captions, layer, full)
        cond = text(kind).encode(captions)
        for row, (known, true) in enumerate(zip(mask, wanted, strict=True)):
            assert torch.equal(cond.tokens[row, : known.sum()], true[known])


def test_the_short_way_to_t5gemma2_is_random(checkpoints):
    """What the test above would notice: this class reads no weight of a whole model's file."""
    whole = checkpoints("t5gemma2")
    door = transformers.T5Gemma2Encoder
    config = transformers.AutoConfig.from_pretrained(whole.folder).encoder
    direct = door.from_pretrained(whole.folder, config=config).eval()
    ids, mask = numbers(whole.folder, CAPTIONS)
    with torch.no_grad():
        mine = direct(input_ids=ids, attention_mask=mask).last_hidden_state
    assert not torch.allclose(mine, reference(whole, CAPTIONS, -1)[0], atol=0.1)


@every
def test_the_mask_counts_tokens_and_padding_is_zero(checkpoints, text, kind):
    made = text(kind)
    cond = made.encode(CAPTIONS)
    counts = numbers(checkpoints(kind).folder, CAPTIONS)[1].sum(1)
    assert cond.mask.sum(1).tolist() == counts.tolist()
    assert cond.tokens.shape == (3, -(-int(counts.max()) // 8) * 8, made.width)
    assert (cond.tokens[~cond.mask] == 0).all()
    assert cond.tokens.dtype == torch.float32


@every
def test_a_caption_alone_is_as_it_is_in_a_batch(text, kind):
    made = text(kind)
    beside = made.encode(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = made.encode([caption])
        n = int(alone.mask.sum())
        torch.testing.assert_close(alone.tokens[0, :n], beside.tokens[row, :n])
        if alone.pooled is not None:
            torch.testing.assert_close(alone.pooled[0], beside.pooled[row])


@every
def test_nothing_asked_is_the_null_and_it_is_made_once(text, kind):
    made = text(kind)
    assert made.null is made.null
    for nothing in (None, "", "  "):
        for mine, null in zip(made.encode([nothing]), made.null, strict=True):
            assert (mine is None and null is None) or torch.equal(mine, null)
    assert made.null.mask.any()  # a row without a true place would hide all of attention


@every
def test_widths_are_those_of_what_comes(text, kind):
    made = text(kind)
    cond = made.encode(CAPTIONS)
    assert cond.tokens.shape[-1] == made.width
    assert made.pooled_width == (0 if cond.pooled is None else cond.pooled.shape[-1])
    assert (cond.pooled is None) == (kind in HIDDEN or kind.startswith("t5"))


@pytest.mark.parametrize("layer", [0, 1, -2, -4])
def test_a_layer_is_one_of_the_hidden_states(checkpoints, text, layer):
    for kind in ("clip", "qwen3", "gemma2"):
        wanted, mask, _ = reference(checkpoints(kind), CAPTIONS[:1], layer)
        found = text(kind, layer=layer).encode(CAPTIONS[:1])
        assert torch.equal(found.tokens[0, : mask.shape[1]], wanted[0])


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there_names_the_range(text, layer):
    with pytest.raises(ValueError, match=r"0 … 3, or -1 … -4"):
        text("clip", layer=layer)


def test_clips_pooled_vector_before_and_after_the_projection(checkpoints, text):
    clip = checkpoints("clip")
    wanted = reference(clip, CAPTIONS, -1)[2].pooler_output
    plain, shared = text("clip", layer=-2), text("clip", projected=True)
    torch.testing.assert_close(plain.encode(CAPTIONS).pooled, wanted)
    projection = clip.whole.text_projection.weight
    torch.testing.assert_close(shared.encode(CAPTIONS).pooled, wanted @ projection.T)
    assert (plain.pooled_width, shared.pooled_width) == (16, 10)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_reads_lower_case_and_its_padding(checkpoints, text, kind):
    made = text(kind)
    loud, quiet = made.encode(["A RED Circle"]), made.encode(["a red circle"])
    assert torch.equal(loud.tokens, quiet.tokens)
    wanted = reference(checkpoints(kind), CAPTIONS, -1, FULL)[2].pooler_output
    torch.testing.assert_close(made.encode(CAPTIONS).pooled, wanted)
    masked = reference(checkpoints(kind), CAPTIONS, -1)[2].pooler_output
    assert not torch.allclose(masked, wanted, atol=1e-3)


def test_a_mean_is_taken_over_words_only(text):
    cond = text("bert").encode(CAPTIONS)
    means = [row[known].mean(0) for row, known in zip(cond.tokens, cond.mask, strict=True)]
    torch.testing.assert_close(cond.pooled, torch.stack(means))


def test_words_before_a_caption_are_left_out_of_the_null(text):
    plain, led = text("gemma2"), text("gemma2", before="it is ")
    assert torch.equal(led.encode(["a star"]).tokens, plain.encode(["it is a star"]).tokens)
    assert torch.equal(led.null.tokens, plain.null.tokens)


def test_a_chat_template_is_the_tokenizers(text):
    plain, chat = text("qwen3"), text("qwen3", chat=True)
    assert torch.equal(chat.encode(["a star"]).tokens, plain.encode(["it is a star yes"]).tokens)
    assert torch.equal(chat.null.tokens, plain.encode(["it is yes"]).tokens)


def test_long_captions_are_cut_and_told_of_once(text):
    made = text("t5", length=5)
    with pytest.warns(UserWarning, match=r"1 of 3 captions .* text.length=5 .*'a blue square"):
        cond = made.encode(CAPTIONS)
    assert cond.mask.sum(1).tolist() == [4, 5, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.encode(CAPTIONS)
        text("t5", length=9).encode(CAPTIONS)  # just long enough


@pytest.mark.parametrize("length", [0, 13])
def test_a_length_that_cannot_be_read_names_the_most(text, length):
    with pytest.raises(ValueError, match=f"text.length={length} .* reads 1 … 12 tokens"):
        text("clip", length=length)


def test_siglip_reads_its_own_length_and_no_other(checkpoints):
    path = str(checkpoints("siglip").folder)
    with pytest.raises(ValueError, match=r"text.length=5 .* reads 12 … 12"):
        TEXTS["encoder"](FACTS, path=path, length=5)


def test_a_label_is_no_caption(text):
    with pytest.raises(
        ValueError, match="Label 3 is wrong because this run is conditioned on captions"
    ):
        text("t5").encode([3])


def test_many_captions_in_small_batches_keep_their_places(text, monkeypatch):
    once = text("t5").encode(CAPTIONS)
    monkeypatch.setattr(states, "AT_ONCE", 10)
    places = [2, 0, 0, 1, 2, 1]
    many = text("t5").encode([CAPTIONS[place] for place in places])
    torch.testing.assert_close(many.tokens, once.tokens[places])
    assert torch.equal(many.mask, once.mask[places])


def test_each_caption_is_encoded_once(text, monkeypatch):
    seen = []
    monkeypatch.setattr(
        states, "_run", lambda *a, run=states._run: seen.append(len(a[1])) or run(*a)
    )
    text("t5").encode(CAPTIONS * 50)
    assert sum(seen) == 3


def test_weights_are_frozen_and_quiet(checkpoints, text):
    made = text("t5")
    once = made.encode(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.encode(CAPTIONS).tokens, once.tokens)  # nor is there dropout
    assert not once.tokens.requires_grad
    module = load_encoder(find_encoder(str(checkpoints("t5").folder)), "bf16")
    assert not module.training
    assert {(p.requires_grad, p.dtype) for p in module.parameters()} == {(False, torch.bfloat16)}


def test_the_device_is_chosen_before_and_after_loading(checkpoints):
    made = TEXTS["t5"](FACTS, path=str(checkpoints("t5").folder))
    made.to(torch.device("meta"))
    with pytest.raises((NotImplementedError, RuntimeError, ValueError)):
        made.encode(["star"])  # there are no numbers there, so it did run there


def test_a_pair_has_the_states_of_one_and_the_vector_of_the_other(checkpoints, text):
    paths = {"states": str(checkpoints("t5").folder), "pooled": str(checkpoints("clip").folder)}
    pair, one, two = TEXTS["pair"](FACTS, **paths), text("t5"), text("clip")
    cond = pair.encode(CAPTIONS)
    assert torch.equal(cond.tokens, one.encode(CAPTIONS).tokens)
    assert torch.equal(cond.mask, one.encode(CAPTIONS).mask)
    assert torch.equal(cond.pooled, two.encode(CAPTIONS).pooled)
    assert torch.equal(pair.null.pooled, two.null.pooled)
    assert (pair.width, pair.pooled_width) == (16, 16)
    pair.to(torch.device("cpu"))


def test_a_row_refuses_another_family(checkpoints):
    path = str(checkpoints("clip").folder)
    with pytest.raises(ValueError, match=r"'clip' model, but this row reads 't5'.*text=encoder"):
        TEXTS["t5"](FACTS, path=path)


def test_any_kind_is_known_by_its_settings(checkpoints, text):
    found = TEXTS["encoder"](FACTS, path=str(checkpoints("t5gemma2").folder))
    assert torch.equal(found.encode(CAPTIONS).tokens, text("t5gemma2").encode(CAPTIONS).tokens)
