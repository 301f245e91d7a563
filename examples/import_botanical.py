"""Import ready-made latents and text states into a cache that `pathline train` reads.

The file holds 200 captioned flowers, encoded by the real EQ-SDXL-VAE and T5Gemma 2 1b: `latent.NNN`
[4, h/8, w/8] times 0.13025, `text` [200, 96, 1152], `id` with the NNN of each row, `flipped`. The
captions come from the folder of NNN.jpg and NNN.txt.

- A raw latent is the stored one / 0.13025. Mean and std are measured; nobody types a constant.
- Three sizes, 512x512, 640x384 and 384x640, are the buckets; the pictures were stretched to them.
- 98 pictures were mirrored before they were encoded. Theirs are true latents of mirrored pictures,
  so all 200 are taken as they are, and index.jsonl says "mirrored" of those. No caption says left
  or right; one that did would be told. No latent is mirrored here or later: the mirrored latent is
  not the latent of the mirrored picture.
- Padding was not masked: all 96 states are filled, a caption's last ones by padding, which is like
  the very last (cosine above 0.8, that of words is below 0.3). It is cut off; --padding keeps it.
- The null prompt was not encoded: one row of zeros stands for it.

Weights of the two encoders aren't needed to train. To decode drawn latents, or to encode a new
prompt, name them here (--codec, --text), so that the cache knows them as what made it.

    python examples/import_botanical.py eqsdxl_t5gemma2.safetensors PICTURES
    pathline train flowers-stream
"""

import argparse
import re
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pathline.config.layers import to_tree
from pathline.config.resolve import read
from pathline.config.yaml_io import write as yaml_of
from pathline.data.cache import shards, states
from pathline.data.cache.index import named, publish, statistics
from pathline.data.cache.latents import LATENTS, SUMS, size_of, store
from pathline.data.cache.plan import Spec
from pathline.data.cache.reader import LATENTS_FOLDER, NULL, TEXT_FOLDER
from pathline.recipes.preprocess import tools_of
from pathline.runs.folder import SETTINGS

SCALE = 0.13025  # by which stored latents were multiplied
CODEC, TEXT = "kl:EQ-SDXL-VAE@imported", "t5gemma2:t5gemma-2-1b-1b@imported"
LIKE_PADDING = 0.8  # cosine
Made = tuple[list[shards.Shard], dict[str, tuple[int, int]]]  # shards, key -> (shard, row)

parser = argparse.ArgumentParser(description="Import ready-made latents into a cache.")
parser.add_argument("file", type=Path, help="eqsdxl_t5gemma2.safetensors")
parser.add_argument("pictures", type=Path, help="the folder of NNN.jpg and NNN.txt")
parser.add_argument("--out", type=Path, default=Path("caches/flowers-stream"))
parser.add_argument("--codec", help="EQ-SDXL-VAE: a folder or hub name")
parser.add_argument("--text", help="T5Gemma 2 1b: a folder or hub name")
parser.add_argument("--padding", action="store_true", help="keep the states of padding")


def import_latents(out: Path, found: dict[str, Tensor], keys: list[str]) -> tuple[Made, list, dict]:
    """Shards of raw latents by bucket, the buckets' sizes, the statistics."""
    raw = {key: found[f"latent.{key}"].float() / SCALE for key in keys}
    sizes = sorted({(8 * x.shape[1], 8 * x.shape[2]) for x in raw.values()}, reverse=True)
    written, places, sums, count = [], {}, torch.zeros(2, 4, dtype=torch.float64), 0
    for size in sizes:
        own = [key for key in keys if raw[key].shape[1:] == (size[0] // 8, size[1] // 8)]
        latents, moments = store(torch.stack([raw[key] for key in own]), "fp16", own)
        written.append(
            save(out / LATENTS_FOLDER, size_of(size), own, {LATENTS: latents, SUMS: moments})
        )
        places |= {key: (len(written) - 1, row) for row, key in enumerate(own)}
        sums, count = sums + moments.sum(0), count + latents[:, 0].numel()
    return (written, places), sizes, statistics(sums.numpy(), count)


def import_text(out: Path, tokens: Tensor, keys: list[str], *, padding: bool) -> Made:
    """One shard of text states, and the null row."""
    rows: list[states.Row] = [(row if padding else row[: words_of(row)], None) for row in tokens]
    shards.save(out / NULL, ["null"], states.packed([(torch.zeros_like(tokens[0, :1]), None)]))
    written = save(out / TEXT_FOLDER, "text", keys, states.packed(rows))
    return [written], {key: (0, row) for row, key in enumerate(keys)}


def words_of(tokens: Tensor) -> int:
    """How many of the states [l D] belong to the caption."""
    like = torch.cosine_similarity(tokens.float(), tokens[-1:].float(), dim=-1)
    return int((like < LIKE_PADDING).nonzero().max()) + 1


def save(folder: Path, prefix: str, ids: list[str], tensors: dict[str, Tensor]) -> shards.Shard:
    name = shards.name(prefix, ids)
    shards.save(folder / name, ids, tensors)
    return shards.Shard(name, tuple(ids), (folder / name).stat().st_size)


def line_of(pictures: Path, key: str, size: tuple[int, int], mirrored: bool) -> dict:
    """A picture's line of the index, but for where its rows lie."""
    caption = " ".join((pictures / f"{key}.txt").read_text("utf-8").split())
    if mirrored and re.search(r"\b(left|right)\b", caption):
        print(f"{key} was mirrored, but its caption says: {caption}")
    with Image.open(pictures / f"{key}.jpg") as image:
        width, height = image.size
    return {
        "key": f"{key}.jpg",
        "bucket": size,
        "digest": "",
        "stamp": None,
        "size": (height, width),
        "scaled": size,
        "cut": (0, 0),
        "cropped": 0.0,
        "mirrored": mirrored,
        "label": None,
        "captions": [caption],
        "weights": [1.0],
    }


asked = parser.parse_args()
found = load_file(asked.file)
keys = [f"{number:03d}" for number in found["id"].tolist()]
(latents, rows), sizes, stats = import_latents(asked.out, found, keys)
texts, said = import_text(asked.out, found["text"], keys, padding=asked.padding)

given = {"codec.path": asked.codec, "text.path": asked.text, "data.source.path": asked.pictures}
settings = [f"{key}={value}" for key, value in given.items() if value]
run = read("flowers-stream", (), settings).run
tools = tools_of(run) if asked.codec and asked.text else None
ids = (tools.spec.codec, tools.spec.text) if tools else (CODEC, TEXT)

size_at = {key: sizes[shard] for key, (shard, _) in rows.items()}
lines = [
    line_of(asked.pictures, key, size_at[key], mirrored)
    | {"latent": rows[key], "states": [said[key]]}
    for key, mirrored in zip(keys, found["flipped"].tolist(), strict=True)
]
head = asdict(Spec(*ids, factor=8, channels=4, text_dtype="bf16"))
head |= {"format": 1, "flipped": False, "names": [], "sizes": sizes}
head |= {"latents": named(latents), "texts": named(texts)}
publish(asked.out, head, lines, stats)
shards.replace(asked.out / SETTINGS, yaml_of(to_tree(run)))

shown = {name: [round(value, 4) for value in stats[name]] for name in ("mean", "std")}
pooled = {name: value * SCALE for name, value in stats["pooled"].items()}
print(
    f"{asked.out}: {len(lines)} pictures in {len(sizes)} buckets, {sum(found['flipped'])} mirrored"
)
print(f"raw latents by channel: mean {shown['mean']}, std {shown['std']}")
print(f"times {SCALE}, pooled: mean {pooled['mean']:.4f}, std {pooled['std']:.4f}")
