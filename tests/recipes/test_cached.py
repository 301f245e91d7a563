"""A run on a cache: buckets, words of a frozen encoder, drawn from as any other, or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pathline.assemble import assemble
from pathline.cli import main
from pathline.config.resolve import read as settings
from pathline.data.cache.reader import read
from pathline.evaluation.training_images import training_reference
from pathline.runs import folder as runs
from pathline.runs.feed import batch_of, flow_feeder, held_out, load_data
from pathline.runs.from_cache import adopt_cache
from pathline.tables import TABLES
from pathline.training import checkpoint
from pathline.training.loop import Progress

CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dark", "light", "wide", "tall", "square"]
MADE = ("data.size=16", "data.buckets.max_ratio=2", "data.buckets.upscale=1.5")
NET = [
    *("backbone=stream_dit", "backbone.size=nano/2", "backbone.width=32", "backbone.depth=1"),
    *(
        "backbone.patch=4",
        "backbone.heads=2",
        "backbone.refiners=1",
        "train.precision=fp32",
        "train.updates=4",
    ),
    *("train.batch=6", "train.log_every=1", "train.save_every=2", "train.sample_every=4"),
    *("train.validate_every=4", "data.holdout=0.2", "sample.steps=2", "sample.count=2"),
]


def pictures(where):
    """Twelve pictures of three shapes, each with a caption or two."""
    where.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(12):
        shape, size = [("wide", (12, 20)), ("tall", (20, 12)), ("square", (16, 16))][number % 3]
        light = number % 2
        pixels = rng.integers(128 * light, 128 + 127 * light, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{number:02d}.png")
        text = f"a {'light' if light else 'dark'} {shape}"
        lines.append({"file_name": f"{number:02d}.png", "text": text})
    (where / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def encoder(where):
    """A small random BERT with a tokenizer that knows ten words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(where)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    ).save_pretrained(where)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Pixels as latents, a small encoder's states, three buckets."""
    home = tmp_path_factory.mktemp("cached")
    pictures(home / "set")
    encoder(home / "bert")
    text = ("text=encoder", f"text.path={home / 'bert'}")
    made = ["preprocess", str(home / "set"), *MADE, *NET[:6], *text, "--out", str(home / "cache")]
    assert main(made) == 0
    return home / "cache"


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "own-large", f"data.cache={cache}", *NET, "--out", str(where)]) == 0
    return where


def opened(cache, *more):
    asked = settings("own-large", overrides=[f"data.cache={cache}", *NET, *more])
    return load_data(adopt_cache(asked), None, Console(quiet=True))


def test_what_nobody_said_is_the_caches(run):
    kept = settings(base=run / runs.SETTINGS).run
    assert (kept.text.name, kept.codec.name, kept.data.size) == ("encoder", "pixel", 16)
    facts = runs.open_run(run, print).facts
    assert set(facts.sizes) == {(16, 16), (8, 16), (16, 8)} or len(facts.sizes) == 3
    assert facts.cache is not None
    assert (facts.cache.channels, facts.cache.text_width) == (3, 16)
    assert len(facts.cache.mean) == len(facts.cache.std) == 3


def test_every_update_is_of_one_size_and_normalised_as_measured(cache):
    run, facts, data_for = opened(cache)
    parts = assemble(run, facts)
    data = data_for(parts)
    feed, seen = flow_feeder(run, data, CPU), set()
    for n in range(12):
        ((batch, _),) = feed(Progress(n, 6 * n))
        seen.add(tuple(batch.x1.shape[2:]))
        assert batch.cond.tokens is not None
        assert len(batch.cond.tokens) == len(batch.x1) == 6
    assert len(seen) == 3
    every = [batch_of(data, row[None], CPU).x1.flatten(2) for row in torch.arange(12)]
    values = torch.cat(every, 2)
    assert values.mean().abs() < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)
    assert sum(len(batch.x1) for batch in held_out(run, data, CPU)) == 2


def test_a_caption_is_heard_as_the_encoder_says_it(cache):
    """States out of the cache are the encoder's own, and the null is the same object."""
    run, facts, data_for = opened(cache)
    parts = assemble(run, facts)
    data = data_for(parts)
    rows = torch.tensor([3, 4])
    told = parts.text.encode([data.captions[3], data.captions[4]])
    kept = data.cond(rows, None)
    torch.testing.assert_close(kept.tokens, told.tokens, atol=4e-3, rtol=4e-3)  # stored as fp16
    assert torch.equal(kept.mask, told.mask)
    torch.testing.assert_close(data.null.tokens, parts.text.null.tokens, atol=4e-3, rtol=4e-3)


def test_captions_are_chosen_by_their_weights(cache):
    index = [json.loads(line) for line in (cache / "index.jsonl").read_text().splitlines()]
    assert {tuple(line["weights"]) for line in index} == {(1.0,)}
    assert set(read(cache, [2.0, 1.0]).weights) == {(2.0,)}


def test_words_that_are_trained_along_are_read_from_a_cache_too(tmp_path):
    pictures(tmp_path / "set")
    captions = tmp_path / "set" / "metadata.jsonl"
    lines = captions.read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "captions": ["broad"]})
    captions.write_text("\n".join(lines))
    made = ["preprocess", str(tmp_path / "set"), *MADE, *NET[:6], "text=none"]
    assert main([*made, "--out", str(tmp_path / "cache")]) == 0
    run, facts, data_for = opened(tmp_path / "cache", "text=words", "data.caption_weights=[1,3]")
    assert facts.words == ("a", "broad", "dark", "light", "square", "tall", "wide")
    parts = assemble(run, facts)
    data = data_for(parts)
    rows, numbers = torch.tensor([3, 3, 4]), torch.tensor([0.2, 0.3, 0.3])
    told = parts.text.encode(["a light wide", "broad", data.captions[4]])
    assert torch.equal(data.cond(rows, numbers).words, told.words)
    assert torch.equal(data.cond(rows, None).words[:2], told.words[:1].expand(2, -1))


def test_it_draws_words_sizes_and_rows_of_the_cache(cache, run, tmp_path):
    out = str(tmp_path / "out")
    words = ["a light wide", "--size", "8x16", "--negative", "a dark square"]
    assert main(["generate", str(run), *words, "--steps", "2", "--out", out]) == 0
    with Image.open(next(Path(out).glob("*.png"))) as picture:
        assert picture.size == (16, 8)
    assert main(["generate", str(run), "--from-cache", "03.png", "--steps", "2", "--out", out]) == 0
    there = read(cache)
    height, width = there.sizes[there.bucket[there.keys.index("03.png")]]
    with Image.open(Path(out) / "a-light-wide-0-2.png") as picture:
        assert picture.size == (width, height) != (16, 16)


def test_no_encoder_is_needed_for_what_the_cache_holds(run, tmp_path, monkeypatch, capsys):
    def gone(_, *, path: str):
        raise AssertionError(f"{path} was looked for")

    monkeypatch.setitem(TABLES["text"], "encoder", gone)
    out = str(tmp_path / "out")
    assert main(["generate", str(run), "--from-cache", "03.png", "--steps", "2", "--out", out]) == 0
    assert main(["generate", str(run), "a light wide", "--steps", "2", "--out", out]) == 1
    assert "was looked for" in capsys.readouterr().err


def test_measuring_says_which_size_it_measured(cache):
    run, facts, data_for = opened(cache)
    found = training_reference(run, data_for(assemble(run, facts)), 2, seed=0)
    assert found.pixels.shape[2:] == (facts.height, facts.width)
    assert found.name.endswith(f", only {facts.height}x{facts.width}, the most frequent size")


def test_a_picture_to_begin_from_and_a_file_of_prompts(run, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    (tmp_path / "prompts.txt").write_text("a dark tall\n\na light tall\n")
    out = tmp_path / "out"
    asked = ["--prompt-file", str(tmp_path / "prompts.txt"), "--init", str(tmp_path / "red.png")]
    how = ["--strength", "0.2", "--steps", "5", "--out", str(out)]
    assert main(["generate", str(run), *asked, *how]) == 0
    assert len(list(out.glob("a-*.png"))) == 2


def test_a_resumed_run_is_the_same_to_the_bit(run, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / checkpoint.name(4))
    assert main(["train", "--resume", str(cut)]) == 0
    last = Path("checkpoints", checkpoint.name(4))
    one, two = (checkpoint.load(where / last).tensors for where in (run, cut))
    for stem, group in one.items():
        assert all(torch.equal(tensor, two[stem][name]) for name, tensor in group.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_states_of_a_cache_train_under_autocast(cache, precision, tmp_path):
    """The preset `emoji` on stored fp16 states, pooled ones too: updates, validates, samples."""
    out = tmp_path / "run"
    small = [*NET, "train.updates=1", "train.sample_every=1", "train.validate_every=1"]
    small += [f"data.cache={cache}", f"train.precision={precision}"]
    assert read(cache).null.pooled is not None
    assert main(["train", "emoji", *small, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("val/loss" in line for line in lines)
    assert list((out / "samples").glob("*.png"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.size=32"], "was made with 16"),
        (["backbone=dit", "backbone.patch=2"], "stream_dit or cross_dit"),
        (["text=labels"], "no labels"),
        (["codec=taesd"], "codec=taesd is wrong because the cache"),
        (["data.flip=false"], "was made with True"),
        (["data.buckets.max_ratio=3"], "Leave it out"),
        (["data.cache=''", "data.source=digits", "data.buckets.max_ratio=2"], "for pictures in a"),
    ],
)
def test_what_does_not_fit_the_cache_is_refused(cache, tmp_path, capsys, more, message):
    plain = [part for part in NET if not more[0].startswith("backbone") or "backbone" not in part]
    asked = [
        "train",
        "own-large",
        f"data.cache={cache}",
        *plain,
        *more,
        "--out",
        str(tmp_path / "no"),
    ]
    assert main(asked) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "no" / "checkpoints").exists()


def test_a_cache_that_is_not_there_says_how_to_make_it(tmp_path, capsys):
    assert main(["train", "emoji", f"data.cache={tmp_path}", "--out", str(tmp_path / "no")]) == 2
    assert "pathline preprocess emoji" in " ".join(capsys.readouterr().err.split())


def test_a_missing_shard_is_named(cache, tmp_path, capsys):
    shutil.copytree(cache, tmp_path / "cut")
    shard = next((tmp_path / "cut" / "latents").glob("*.safetensors"))
    shard.unlink()
    asked = [
        "train",
        "own-large",
        f"data.cache={tmp_path / 'cut'}",
        *NET,
        "--out",
        str(tmp_path / "no"),
    ]
    assert main(asked) == 2
    assert shard.name in " ".join(capsys.readouterr().err.split())
