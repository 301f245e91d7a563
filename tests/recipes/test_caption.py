"""`pathline caption` on a tiny random Qwen3-VL of the real classes: the words are noise, so what is
tested is the way there and back. Where an answer must be fit, a stand-in gives it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.data.folders import folder as read_folder
from pathline.recipes import captioner
from pathline.recipes.caption import caption
from pathline.recipes.captioner import Answer, located

transformers = pytest.importorskip("transformers")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
            "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
TALK = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
FLOWER = {"view": "macro shot", "flower": "bellflower", "petals": "waxy violet petals",
          "center": "pale", "background": "dark green", "style": "soft light"}  # fmt: skip
GOOD = json.dumps(FLOWER)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a Qwen3-VL of 40 thousand weights that knows single bytes."""
    import tokenizers
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
    (root / "b.txt").write_text("by hand\n")
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

        monkeypatch.setattr(captioner, "load", lambda *_, **__: ask)
        return calls

    return made


def told(root, name="metadata.jsonl"):
    lines = (root / name).read_text("utf-8").split("\n")
    return {record["file_name"]: record for record in map(json.loads, filter(None, lines))}


def read(root):
    source = read_folder(path=root)
    return {e.key: e.captions for e in map(source.read, range(source.count))}


def images(root):
    return [Image.open(path).convert("RGB") for path in sorted(root.glob("*.png"))]


@pytest.fixture
def plain(tmp_path):
    file = tmp_path / "plain.txt"
    file.write_text("Say anything.")
    return str(file)


def test_the_whole_way_with_a_real_model(tiny, pictures, plain, capsys):
    assert caption(pictures, model=str(tiny), template=plain, max_new_tokens=40) == 0
    found = told(pictures)
    said = found["a.png"]["provenance"][0]
    assert said["model"] == tiny.name
    assert said["revision"] == located(str(tiny))[1]
    assert said["template"] == "plain"
    assert len(said["template_digest"]) == 12
    assert said["settings"] == "temperature=0 pixels=589824"
    assert said["date"].startswith("20")
    assert "torchvision" not in sys.modules
    captions = read(pictures)
    assert captions["b.png"][0] == "by hand"
    assert [len(captions[k]) for k in ("a.png", "b.png", "c.png")] == [1, 2, 1]
    assert "text" not in found["b.png"]  # the side-car goes on saying it
    assert found["a.png"]["text"] == found["a.png"]["captions"][0]
    assert "3 pictures captioned" in capsys.readouterr().out
    assert sorted(p.name for p in pictures.iterdir()) == [
        "a.png", "b.png", "b.txt", "c.png", "metadata.jsonl"]  # fmt: skip


def test_a_picture_is_answered_alike_alone_and_in_a_batch(tiny, pictures):
    ask = captioner.load(tiny, max_new_tokens=12)
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
    drawn = captioner._noisy(scores, scores, rngs=rngs, temperature=0.5).argmax(1)
    share = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(share, (scores[0] / 0.5).softmax(0), atol=0.03)


def test_another_family(tmp_path, pictures):
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
        num_additional_image_tokens=1, chat_template=TALK.replace(
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
    ask = captioner.load(tmp_path / "llava", max_new_tokens=10)
    seen, asked = images(pictures)[:2], ["what is it?", "?"]
    apart = [ask([image], [words], [0], 0.0)[0] for image, words in zip(seen, asked, strict=True)]
    assert ask(seen, asked, [0, 0], 0.0) == apart


def test_what_goes_to_the_model(tiny, pictures):
    """Pictures, then words, in the model's own form; padded on the left."""
    processor = captioner._processor(tiny)
    inputs = captioner._inputs(processor, images(pictures), ["hi", "there", "x"])
    texts = processor.batch_decode(inputs["input_ids"])
    assert texts[0].endswith("<|vision_end|>hi<|im_end|>\n<|im_start|>assistant\n")
    assert inputs["input_ids"][:, -1].unique().numel() == 1
    assert inputs["attention_mask"][1, 0] == 0
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"


def test_resuming_asks_only_for_what_is_new_or_changed(tiny, pictures, speaking):
    calls = speaking(lambda n, k: f"one two three four five six seven eight {n} {k}")
    assert caption(pictures, model=str(tiny)) == 0
    assert [len(call[0]) for call in calls] == [3]
    before = (pictures / "metadata.jsonl").read_bytes()
    assert caption(pictures, model=str(tiny)) == 0
    assert len(calls) == 1
    assert (pictures / "metadata.jsonl").read_bytes() == before
    Image.new("RGB", (9, 9)).save(pictures / "a.png")
    Image.new("RGB", (9, 9)).save(pictures / "d.png")
    assert caption(pictures, model=str(tiny)) == 0
    assert [len(call[0]) for call in calls] == [3, 2]
    assert [len(c) for c in read(pictures).values()] == [1, 2, 1, 1]
    assert told(pictures)["a.png"]["text"].endswith("eight 2 0")
    caption(pictures, model=str(tiny), resume=False)
    assert [len(call[0]) for call in calls] == [3, 2, 4]
    assert [len(c) for c in read(pictures).values()] == [1, 2, 1, 1]


def test_another_template_adds_captions_and_replace_leaves_nothing_else(tiny, pictures, speaking):
    speaking(lambda *_: "a red square above a small blue one and nothing else")
    caption(pictures, model=str(tiny))
    speaking(lambda *_: GOOD)
    caption(pictures, model=str(tiny), template="botanical")
    first, flower = read(pictures)["c.png"]
    assert first.startswith("a red square")
    assert flower == (
        "A macro shot of a bellflower, having waxy violet petals, the center is pale, "
        "the background is dark green, soft light."
    )
    said = told(pictures)["c.png"]["provenance"]
    assert [one["template"] for one in said] == ["general", "botanical"]
    assert json.loads(said[1]["answer"]) == FLOWER
    caption(pictures, model=str(tiny), template="botanical", replace=True)
    assert set(read(pictures).values()) == {(flower,)}


def test_human_captions_in_metadata_stay_first_and_other_fields_stay(tiny, pictures, speaking):
    mine = [{"file_name": "a.png", "prompt": "mine", "label": 3}, {"file_name": "gone.png", "x": 1}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, mine)))
    speaking(lambda *_: "one two three four five six seven eight nine")
    caption(pictures, model=str(tiny))
    found = told(pictures)
    assert found["a.png"]["prompt"] == "mine"
    assert found["a.png"]["label"] == 3
    assert found["gone.png"] == mine[1]
    assert found["c.png"]["prompt"].startswith("one two")  # in the field that is used there
    source = read_folder(path=pictures, caption="prompt", label=None)
    assert source.read(0).captions == ("mine", "one two three four five six seven eight nine")


def test_bad_answers_are_tried_again_with_other_chance_and_then_listed(tiny, pictures, speaking):
    bad = {1: "no json", 2: '{"view": "macro"}', 3: "I'm sorry, I can't do that."}
    calls = speaking(lambda n, k: GOOD if n == 1 and k else bad[min(n, 3)])
    assert caption(pictures, model=str(tiny), template="botanical", retries=2) == 0
    assert [len(call[0]) for call in calls] == [3, 1, 1]
    assert [call[3] for call in calls] == [0.0, 0.7, 0.7]
    assert len({call[2][0] for call in calls}) == 3
    fault = json.loads((pictures / "caption-faults.jsonl").read_text())
    assert fault["key"] == "a.png"
    assert "no caption in 3 tries: the model refused" in fault["reason"]
    assert "a.png" not in told(pictures)
    speaking(lambda *_: GOOD)  # it is tried again, and mended
    assert caption(pictures, model=str(tiny), template="botanical") == 0
    assert "a.png" in told(pictures)
    assert not (pictures / "caption-faults.jsonl").exists()


def test_a_cut_answer_is_no_caption(tiny, pictures, speaking, capsys):
    speaking(lambda *_: Answer("a red square above a small blue one and", False))
    assert caption(pictures, model=str(tiny), retries=0, max_new_tokens=7) == 1
    assert "cut after 7 tokens; raise --max-new-tokens" in capsys.readouterr().out
    assert not (pictures / "metadata.jsonl").exists()


def test_bad_pictures_are_listed_and_odd_ones_seen(tiny, pictures, plain, capsys):
    (pictures / "text.png").write_text("no picture")
    (pictures / "cut.png").write_bytes((pictures / "c.png").read_bytes()[:200])
    Image.new("RGB", (1, 1)).save(pictures / "dot.png")
    Image.new("CMYK", (9, 9)).save(pictures / "cmyk.jpg")
    Image.new("RGB", (900, 3)).save(pictures / "line.png")  # the processor refuses such shapes
    frames = [Image.new("P", (8, 8), n) for n in range(3)]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    assert caption(pictures, model=str(tiny), template=plain, max_new_tokens=60) == 0
    assert {"dot.png", "cmyk.jpg", "moving.gif"} < set(told(pictures))
    faults = [json.loads(x) for x in (pictures / "caption-faults.jsonl").read_text().splitlines()]
    reasons = {fault["key"]: fault["reason"] for fault in faults}
    assert set(reasons) == {"text.png", "cut.png", "line.png"}
    assert "cannot be read as a picture" in reasons["text.png"]
    assert "aspect ratio" in reasons["line.png"]
    assert "3 pictures have no caption; all are listed in" in capsys.readouterr().out


def test_large_pictures_are_scaled_down(tiny, pictures, speaking):
    Image.new("RGB", (400, 100)).save(pictures / "a.png")
    calls = speaking(lambda *_: "one two three four five six seven eight")
    caption(pictures, model=str(tiny), pixels=2500)
    assert [image.size for image in calls[0][0]] == [(100, 25), (8, 16), (50, 50)]


def test_side_cars(tiny, pictures, speaking):
    shutil.copy(pictures / "c.png", pictures / "c.webp.png")
    Image.open(pictures / "c.png").save(pictures / "c.jpg")
    speaking(lambda *_: "one two three four five six seven eight")
    caption(pictures, model=str(tiny), side_cars=True)
    texts = {p.name: p.read_text() for p in pictures.glob("*.txt")}
    made = "one two three four five six seven eight\n"
    assert texts == {"a.txt": made, "b.txt": "by hand\n" + made, "c.png.txt": made,
                     "c.jpg.txt": made, "c.webp.txt": made}  # fmt: skip
    assert read(pictures)["b.png"] == ("by hand", made.strip())
    Image.new("RGB", (9, 9)).save(pictures / "b.png")  # what was said of it before is stale
    speaking(lambda *_: "nine ten eleven twelve one two three four")
    caption(pictures, model=str(tiny))
    assert read(pictures)["b.png"] == ("by hand", "nine ten eleven twelve one two three four")


def test_splits_and_an_own_file(tiny, pictures, speaking, tmp_path):
    speaking(lambda *_: "one two three four five six seven eight")
    out = tmp_path / "elsewhere" / "flowers.jsonl"
    caption(pictures, model=str(tiny), out=out)
    assert set(told(out.parent, out.name)) == {"a.png", "b.png", "c.png"}
    assert not (pictures / "metadata.jsonl").exists()
    root = tmp_path / "parted"
    for split in ("train", "test"):
        shutil.copytree(pictures, root / split)
    caption(root, model=str(tiny))
    assert set(told(root / "train")) == set(told(root / "test")) == {"a.png", "b.png", "c.png"}
    assert len(read_folder(path=root, split="test").read(0).captions) == 1


def test_labels_are_told_to_the_model(tiny, pictures, speaking):
    for name in ("tulip", "rose"):
        (pictures / name).mkdir()
    shutil.move(pictures / "a.png", pictures / "tulip" / "a.png")
    shutil.move(pictures / "c.png", pictures / "rose" / "c.png")
    (pictures / "b.png").unlink()
    calls = speaking(lambda *_: json.dumps({**FLOWER, "verdict": "match"}))
    assert caption(pictures, model=str(tiny), template="botanical") == 0
    assert 'filed under "rose"' in calls[0][1][0]
    assert 'filed under "tulip"' in calls[0][1][1]
    said = told(pictures)["rose/c.png"]["provenance"][0]["answer"]
    assert json.loads(said)["verdict"] == "match"


def test_a_dry_run_writes_nothing(tiny, pictures, speaking, capsys):
    calls = speaking(lambda *_: "one two three four five six seven eight")
    assert caption(pictures, model=str(tiny), dry_run=2) == 0
    assert len(calls[0][0]) == 2
    assert "a.png: one two" in capsys.readouterr().out
    assert {p.suffix for p in pictures.iterdir()} == {".png", ".txt"}


def test_an_interrupt_keeps_what_was_made(tiny, pictures, speaking):
    def answer(n, _):
        if n == 3:
            raise KeyboardInterrupt
        return "one two three four five six seven eight"

    speaking(answer)
    with pytest.raises(KeyboardInterrupt):
        caption(pictures, model=str(tiny), batch=1)
    assert set(told(pictures)) == {"a.png", "b.png"}


def resumed(pictures, tiny, speaking):
    """After a kill in the third of three batches: what the next run still asks about."""
    assert not (pictures / "metadata.jsonl").exists()
    [part] = (pictures / ".metadata-parts").iterdir()
    with part.open("a") as file:
        file.write('{"key": "c.png", "cap')  # as a kill in the middle of a write would leave it
    calls = speaking(lambda *_: "one two three four five six seven eight")
    assert caption(pictures, model=str(tiny), batch=1) == 0
    assert set(told(pictures)) == {"a.png", "b.png", "c.png"}
    assert not (pictures / ".metadata-parts").exists()
    return len(calls)


def test_what_ends_it_at_once_loses_at_most_a_batch(tiny, pictures, speaking):
    class End(BaseException):
        pass

    def answer(n, _):
        if n == 3:
            raise End
        return "one two three four five six seven eight"

    speaking(answer)
    with pytest.raises(End):
        caption(pictures, model=str(tiny), batch=1)
    assert resumed(pictures, tiny, speaking) == 1


@pytest.mark.slow
def test_a_kill_loses_at_most_a_batch(tiny, pictures, speaking):
    script = f"""
import os, signal
from pathlib import Path
from pathline.recipes import captioner
from pathline.recipes.caption import caption
calls = []
def ask(images, *_):
    calls.append(images)
    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return [captioner.Answer("one two three four five six seven eight", True)]
captioner.load = lambda *_, **__: ask
caption(Path({str(pictures)!r}), model={str(tiny)!r}, batch=1)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert resumed(pictures, tiny, speaking) == 1


@pytest.mark.slow
def test_processes_share_the_pictures(tiny, pictures, plain):
    words = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", sys.executable,
             "-c", f"from pathlib import Path; from pathline.recipes.caption import caption; "
             f"caption(Path({str(pictures)!r}), model={str(tiny)!r}, template={plain!r}, "
             "max_new_tokens=40, device='cpu')"]  # fmt: skip
    given = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, timeout=300, env=given)
    together = told(pictures)
    (pictures / "metadata.jsonl").unlink()
    caption(pictures, model=str(tiny), template=plain, max_new_tokens=40, device="cpu")
    assert {k: v["captions"] for k, v in together.items()} == {
        k: v["captions"] for k, v in told(pictures).items()
    }


def test_models_that_cannot_be_had(tiny, pictures, tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"no network.*`hf download Qwen/Nowhere .*--model DIR"
    ):
        caption(pictures, model="Qwen/Nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no folder \./nowhere"):
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
    with pytest.raises(ValueError, match="can't be read as an image-text-to-text model"):
        captioner.load(text)
    mute = tmp_path / "mute"
    shutil.copytree(tiny, mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        captioner.load(mute)


def test_missing_weights_are_an_error(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    hole = tmp_path / "hole"
    shutil.copytree(tiny, hole)
    weights = load_file(hole / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != name}, hole / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=r"1 weights of .* are missing"):
        captioner.load(hole)
    assert located(str(hole))[1] != located(str(tiny))[1]


def test_without_transformers_the_install_line_is_told(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'pathline\[caption\]'"):
        captioner.load(Path(tiny))


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"retries": -1}, {"pixels": 0}])
def test_settings_out_of_range(tiny, pictures, wrong):
    with pytest.raises(ValueError, match="wanted at least"):
        caption(pictures, model=str(tiny), **wrong)


def test_a_folder_without_pictures(tiny, tmp_path):
    with pytest.raises(ValueError, match="holds no picture"):
        caption(tmp_path, model=str(tiny))
