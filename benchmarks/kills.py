"""Kill a training again and again, at random moments, and see that nothing is lost.

    python benchmarks/kills.py --kills 100

One run is left in peace. Another is killed (signal 9) at random moments and each time told to go
on. In the end both must have the same weights, averages and optimizer state, bit for bit, and the
same losses. It saves at every third update, so that many kills hit a save. With --control the
killed run gets another seed: it must fail.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pathline.training import checkpoint
from pathline.training import sharded_checkpoint as shards

SETTINGS = [
    *("digits", "train.sample_every=0", "train.validate_every=0", "train.log_every=1"),
    *("train.batch=64", "train.save_every=3", "train.keep_recent=2", "train.precision=fp32"),
]


def command(run: Path, updates: int, more: list[str]) -> list[str]:
    """Begin the run, or go on with it where it is there already."""
    train = [sys.executable, "-m", "pathline", "train"]
    if (run / "facts.json").exists():
        return [*train, "--resume", str(run)]
    return [*train, *SETTINGS, f"train.updates={updates}", *more, "--out", str(run)]


def tensors(run: Path, updates: int) -> dict[str, torch.Tensor]:
    groups = checkpoint.load(run / "checkpoints" / checkpoint.name(updates)).tensors
    return shards.flat(groups)


def losses(run: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["update"], line["loss"]) for line in lines if "loss" in line]


def fault(run: Path, before: int) -> str:
    """What a kill broke: nothing may be lost that was whole before it."""
    root = run / "checkpoints"
    if not root.exists():
        return ""
    newest = checkpoint.newest(root, lambda _: None)
    reached = int(newest.name[5:]) if newest else 0
    return f"update {before} was saved, now {reached} is the newest" if reached < before else ""


def killed(
    run: Path, updates: int, kills: int, more: list[str], rng: random.Random, *, longest: float
) -> list[dict]:
    """Kill and go on, `kills` times, within `longest` seconds; what each kill found."""
    records, before, start = [], 0, 0.0
    while len(records) < kills:
        process = subprocess.Popen(
            command(run, updates, more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:  # what is killed while it reads data tells nothing
            lines.append(line)
            if line.startswith("resumed") or "run folder:" in line:
                break
        earlier = set(run.glob("checkpoints/.tmp-*"))
        time.sleep(rng.uniform(0.0, longest))
        start = time.time()
        process.kill()
        lines += process.stdout.readlines()
        code = process.wait()
        wrong = fault(run, before)
        if code not in (-9, 0) or wrong:
            raise SystemExit(f"kill {len(records)}: exit {code}, {wrong}\n{''.join(lines)}")
        newest = checkpoint.newest(run / "checkpoints", lambda _: None)
        before = int(newest.name[5:]) if newest else 0
        torn = set(run.glob("checkpoints/.tmp-*")) - earlier
        records.append({"at": before, "in_a_save": bool(torn), "seconds": time.time() - start})
        print(
            f"kill {len(records)}: newest whole {before}{', in a save' if torn else ''}", flush=True
        )
        if before >= updates:
            raise SystemExit(f"done after {len(records)} kills: take more --updates")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds until a kill")
    parser.add_argument("--control", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        straight, cut = Path(home, "straight"), Path(home, "cut")
        more = ["seed=1"] if options.control else []
        records = killed(cut, options.updates, options.kills, more, rng, longest=options.longest)
        subprocess.run(command(cut, options.updates, more), check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            command(straight, options.updates, []), check=True, stdout=subprocess.DEVNULL
        )
        first, second = (tensors(run, options.updates) for run in (straight, cut))
        same = first.keys() == second.keys() and all(
            torch.equal(first[k], second[k]) for k in first
        )
        torn = sum(kill["in_a_save"] for kill in records)
        print(f"{len(records)} kills, {torn} of them in a save, no checkpoint lost")
        print(f"weights, averages and optimizer bit-equal: {same}")
        print(f"losses of {options.updates} updates equal: {losses(straight) == losses(cut)}")
        raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
