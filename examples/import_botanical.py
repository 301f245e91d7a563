"""Import ready-made latents and text states into a cache that `pathline train` reads.

The file holds 200 captioned flowers, encoded by the real EQ-SDXL-VAE and T5Gemma 2 1b: `latent.NNN`
[4, h/8, w/8] times 0.13025, `text` [200, 96, 1152], `id` with the NNN of each row, `flipped`. The
captions come from the folder of NNN.jpg and NNN.txt.

- A raw latent is the stored one / 0.13025. Mean and std are measured.
- Three sizes, 512x512, 640x384 and 384x640, are the buckets; the pictures were stretched to them.
- 98 pictures were mirrored before they were encoded. Theirs are true latents of mirrored pictures,
  so all 200 are used as they are, and index.jsonl marks those as "mirrored". No caption says left
  or right; one that did would be printed. No latent is mirrored by us: the mirrored latent is not
  the latent of the mirrored picture.
- Padding was not masked: all 96 states are filled, a caption's last ones by padding, which is like
  the very last (cosine above 0.8, that of words is below 0.3). It is cut off; --padding keeps it.
- The null prompt was not encoded: one row of zeros stands for it.

Weights of the two encoders aren't needed to train. To decode generated latents, or to encode a new
prompt, name them with --codec and --text; the cache then records them as what made it.

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

from pathline.config.resolve import read
from pathline.data.buckets import size_name
from pathline.data.cache.index import publish, statistics
from pathline.data.cache.plan import RowSettings
from pathline.data.cache.reader import FEATURES, LATENTS, NULL, TEXT
from pathline.data.cache.rows import SUMS, VALUES, latent_rows
from pathline.data.cache.shards import TOKENS, Shard, file_name, places, save
from pathline.runs.cache_inputs import cache_inputs, write_settings

SCALE = 0.13025  # by which stored latents were multiplied
CODEC, TEXT_ENCODER = "kl:EQ-SDXL-VAE@imported", "t5gemma2:t5gemma-2-1b-1b@imported"
LIKE_PADDING = 0.8  # cosine

parser = argparse.ArgumentParser(description="Import ready-made latents into a cache.")
parser.add_argument("file", type=Path, help="eqsdxl_t5gemma2.safetensors")
parser.add_argument("pictures", type=Path, help="the folder of NNN.jpg and NNN.txt")
parser.add_argument("--out", type=Path, default=Path("caches/flowers-stream"))
parser.add_argument("--codec", help="EQ-SDXL-VAE: a folder or hub name")
parser.add_argument("--text", help="T5Gemma 2 1b: a folder or hub name")
parser.add_argument("--padding", action="store_true", help="keep the states of padding")


def import_latents(
    out: Path, tensors: dict[str, Tensor], keys: list[str]
) -> tuple[list[Shard], list[tuple[int, int]], dict]:
    """Shards of raw latents by bucket, the buckets' sizes, the statistics."""
    raw = {key: tensors[f"latent.{key}"].float() / SCALE for key in keys}
    sizes = sorted({(8 * x.shape[1], 8 * x.shape[2]) for x in raw.values()}, reverse=True)
    shards, sums, count = [], torch.zeros(2, 4, dtype=torch.float64), 0
    for height, width in sizes:
        of_size = [key for key in keys if raw[key].shape[1:] == (height // 8, width // 8)]
        rows = latent_rows(torch.stack([raw[key] for key in of_size]), None, "fp16", of_size)
        file = out / LATENTS / file_name(size_name((height, width)), of_size)
        shards.append(save(file, of_size, rows))
        sums += torch.stack([row[SUMS] for row in rows]).sum(0)
        count += sum(row[VALUES][0].numel() for row in rows)
    return shards, sizes, statistics(sums.numpy(), count)


def import_text(out: Path, tokens: Tensor, keys: list[str], *, padding: bool) -> Shard:
    """One shard of text states, and the null row."""
    save(out / NULL, ["null"], [{TOKENS: torch.zeros_like(tokens[0, :1])}])
    rows = [{TOKENS: states if padding else states[: words_of(states)]} for states in tokens]
    return save(out / TEXT / file_name("text", keys), keys, rows)


def words_of(tokens: Tensor) -> int:
    """How many of the states [l D] belong to the caption."""
    like = torch.cosine_similarity(tokens.float(), tokens[-1:].float(), dim=-1)
    return int((like < LIKE_PADDING).nonzero().max()) + 1


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
        "version": None,
        "size": (height, width),
        "scaled": size,
        "cut": (0, 0),
        "mirrored": mirrored,
        "label": None,
        "captions": [caption],
        "weights": [1.0],
    }


options = parser.parse_args()
tensors = load_file(options.file)
keys = [f"{number:03d}" for number in tensors["id"].tolist()]
latents, sizes, stats = import_latents(options.out, tensors, keys)
text = import_text(options.out, tensors["text"], keys, padding=options.padding)

paths = {"codec.path": options.codec, "text.path": options.text}
paths["data.source.path"] = options.pictures
run = read("flowers-stream", (), [f"{key}={path}" for key, path in paths.items() if path]).run
inputs = cache_inputs(run) if options.codec and options.text else None
ids = (inputs.settings.codec, inputs.settings.text) if inputs else (CODEC, TEXT_ENCODER)

latent_places, text_places = places(latents), places([text])
lines = [
    line_of(options.pictures, key, sizes[latent_places[key][0]], mirrored)
    | {LATENTS: latent_places[key], TEXT: [text_places[key]]}
    for key, mirrored in zip(keys, tensors["flipped"].tolist(), strict=True)
]
head = asdict(RowSettings(*ids, factor=8, channels=4, text_dtype="bf16"))
head |= {"names": [], "sizes": sizes}
publish(options.out, head, {LATENTS: latents, TEXT: [text], FEATURES: []}, lines, stats)
write_settings(options.out, run)

channels = {name: [round(value, 4) for value in stats[name]] for name in ("mean", "std")}
pooled = {name: value * SCALE for name, value in stats["pooled"].items()}
flipped = sum(tensors["flipped"])
print(f"{options.out}: {len(lines)} pictures in {len(sizes)} buckets, {flipped} mirrored")
print(f"raw latents by channel: mean {channels['mean']}, std {channels['std']}")
print(f"times {SCALE}, pooled: mean {pooled['mean']:.4f}, std {pooled['std']:.4f}")
