"""What preprocessing costs beside its encoder, and what a cache gives while training.

python benchmarks/preprocess.py FOLDER [--size 128] [--rounds 3] [--most 0] [key=value …]

Prints one JSON line: pictures a second of `pathline preprocess` and of its bare encoder on the same
pictures, already decoded and in batches, timed in turns; the seconds of a second run on the
unchanged folder over those of the first; pictures a second of the loader that reads the cache in
the order of buckets. The codec is that of the settings, such as codec=taef2 codec.path=FOLDER.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from glob import escape
from pathlib import Path

import torch
from rich.console import Console

from pathline.config.resolve import read
from pathline.data.cache.plan import lay_out
from pathline.data.cache.reader import read as read_cache
from pathline.data.cache.rows import read_picture
from pathline.data.order import bucket_batches
from pathline.recipes.preprocess import write_cache
from pathline.runs.cache_inputs import CacheInputs, cache_inputs, encoders
from pathline.tables import TABLES
from pathline.training.device import pick_device

FEEDS = 200


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def link_pictures(folder: Path, most: int) -> Path:
    """The first pictures of a folder with their side-cars, copied where nothing else lies."""
    out = Path(tempfile.mkdtemp())
    names = sorted(path.stem for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    for stem in names[: most or None]:
        for file in folder.glob(f"{escape(stem)}.*"):
            shutil.copy(file, out)
    return out


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=0, help="pictures; 0: all")
    return parser.parse_intermixed_args()


def decoded(scratch: Path, inputs: CacheInputs) -> list[torch.Tensor]:
    """Every picture as its bucket has it, bucket by bucket: uint8 [n c h w]."""
    layout = lay_out(scratch, inputs.source, inputs.buckets, inputs.settings, lambda *_: None)
    by_size: dict[tuple[int, int], list[torch.Tensor]] = {}
    for placed in layout.pictures:
        pixels = read_picture(inputs.source, placed, inputs.run.data.channels)
        by_size.setdefault(placed.place.size, []).append(pixels)
    return [torch.stack(pictures) for pictures in by_size.values()]


def timed(
    scratch: Path, inputs: CacheInputs, pictures: list[torch.Tensor], batch: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every round, in turns: the bare encoder, a first writing, a second one."""
    encode = encoders(inputs, pick_device(inputs.run.device)).latents
    batches = [pixels for of_size in pictures for pixels in of_size.split(batch)]

    @torch.inference_mode()
    def bare() -> None:
        for pixels in batches:
            encode(pixels).cpu()

    def whole(number: int) -> None:
        write_cache(scratch / str(number), inputs, batch, Console(quiet=True))

    bare()
    times: dict[str, list[float]] = {"bare": [], "first": [], "second": []}
    for number in range(rounds):
        times["bare"].append(seconds(bare))
        times["first"].append(seconds(lambda n=number: whole(n)))
        times["second"].append(seconds(lambda n=number: whole(n)))
    return times


def loading(folder: Path, batch: int) -> float:
    """Pictures a second of the loader that reads this cache."""
    cached = read_cache(folder)
    turn = bucket_batches(cached.bucket.numpy(), batch, seed=0)

    def feed() -> None:
        for update in range(FEEDS):
            rows = torch.from_numpy(turn(update * batch).rows)
            cached.latents(rows, None)
            cached.cond(rows, torch.zeros(len(rows), dtype=torch.float64))

    feed()
    return batch * FEEDS / seconds(feed)


def rates(times: dict[str, list[float]], count: int) -> dict[str, float]:
    """Of `count` pictures."""
    took = {name: statistics.median(rounds) for name, rounds in times.items()}
    ratios = [a / b for a, b in zip(times["bare"], times["first"], strict=True)]
    again = [b / a for a, b in zip(times["first"], times["second"], strict=True)]
    return {
        "encoder_images_per_second": round(count / took["bare"], 1),
        "preprocess_images_per_second": round(count / took["first"], 1),
        "preprocess_over_encoder": round(statistics.median(ratios), 3),
        "second_run_over_first": round(statistics.median(again), 4),
    }


def main() -> None:
    options = parse_arguments()
    root, scratch = link_pictures(options.folder, options.most), Path(tempfile.mkdtemp())
    settings = [f"data.size={options.size}", *options.settings]
    inputs = cache_inputs(read(str(root), (), settings, tables=TABLES).run)
    pictures = decoded(scratch, inputs)
    count = sum(map(len, pictures))
    times = timed(scratch, inputs, pictures, options.batch, options.rounds)
    report = {
        "codec": inputs.codec.id,
        "pictures": count,
        "buckets": len(pictures),
        "threads": torch.get_num_threads(),
        "device": str(pick_device(inputs.run.device)),
        **rates(times, count),
        "loader_images_per_second": round(loading(scratch / "0", inputs.run.train.batch)),
    }
    print(json.dumps(report))
    shutil.rmtree(root)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
