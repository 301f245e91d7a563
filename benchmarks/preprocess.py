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
from pathlib import Path

import torch
from rich.console import Console

from pathline.assemble import problems_of
from pathline.config.read import read
from pathline.data.cache import read as read_cache
from pathline.data.latents import picture_of
from pathline.data.loader import bucketed
from pathline.data.planning import lay
from pathline.recipes.preprocess import _encode, _made, tools_of
from pathline.training.parallel import pick_device

FEEDS = 200


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def some(folder: Path, most: int) -> Path:
    """The first pictures of a folder with their side-cars, copied where nothing else lies."""
    out = Path(tempfile.mkdtemp())
    names = sorted(path.stem for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    for stem in names[: most or None]:
        for file in folder.glob(f"{stem}.*"):
            shutil.copy(file, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=0, help="pictures; 0: all")
    given = parser.parse_intermixed_args()
    root, scratch = some(given.folder, given.most), Path(tempfile.mkdtemp())
    asked = [f"data.size={given.size}", *given.settings]
    tools = tools_of(read(str(root), (), asked, check=problems_of).run)
    device = pick_device(tools.run.device)
    jobs = lay(scratch, tools.source, tools.buckets, tools.spec, lambda *_: None).jobs
    by_size: dict[tuple[int, int], list[torch.Tensor]] = {}
    for job in jobs:
        pixels = picture_of(tools.source, job, tools.run.data.channels)
        by_size.setdefault(job.place.size, []).append(pixels)
    batches = [b for own in by_size.values() for b in torch.stack(own).split(given.batch)]

    @torch.inference_mode()
    def bare() -> None:
        for pixels in batches:
            _encode(tools.codec, device, pixels).cpu()

    def whole(number: int) -> None:
        _made(scratch / str(number), tools, given.batch, Console(quiet=True))

    bare()
    times: dict[str, list[float]] = {"bare": [], "first": [], "second": []}
    for number in range(given.rounds):
        times["bare"].append(seconds(bare))
        times["first"].append(seconds(lambda n=number: whole(n)))
        times["second"].append(seconds(lambda n=number: whole(n)))
    cached = read_cache(scratch / "0")
    batch = tools.run.train.batch
    turn = bucketed(cached.bucket.numpy(), batch, seed=0)

    def feed() -> None:
        for update in range(FEEDS):
            rows = torch.from_numpy(turn(update * batch).rows)
            cached.latents(rows, None)
            cached.cond(rows, torch.zeros(len(rows), dtype=torch.float64))

    feed()
    took = {name: statistics.median(rounds) for name, rounds in times.items()}
    ratios = [a / b for a, b in zip(times["bare"], times["first"], strict=True)]
    again = [b / a for a, b in zip(times["first"], times["second"], strict=True)]
    print(
        json.dumps(
            {
                "codec": tools.codec.id,
                "pictures": len(jobs),
                "buckets": len(by_size),
                "threads": torch.get_num_threads(),
                "device": str(device),
                "encoder_images_per_second": round(len(jobs) / took["bare"], 1),
                "preprocess_images_per_second": round(len(jobs) / took["first"], 1),
                "preprocess_over_encoder": round(statistics.median(ratios), 3),
                "second_run_over_first": round(statistics.median(again), 4),
                "loader_images_per_second": round(batch * FEEDS / seconds(feed)),
            }
        )
    )
    shutil.rmtree(root)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
