"""Training speed by threads, their waiting and precision, on a quiet and on a busy machine.

    python benchmarks/threads.py [--preset quickstart] [--updates 60] [--rounds 3] [SETTING …]

Each figure is a process of its own that trains the preset and logs images a second every 10
updates; the first 20 don't count. "busy" runs one process that only computes on every core as well.
Settings take turns within a round, medians are printed as a Markdown table. SETTING: a row of
SETTINGS below, by default all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CORES = os.cpu_count() or 1
SETTINGS: dict[str, Mapping[str, str]] = {
    "as pathline starts": {},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    "OMP_WAIT_POLICY=ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
}
LOGGED = ["train.log_every=10", "train.save_every=100000", "train.sample_every=0"]
LOGGED += ["train.validate_every=0", "train.probe_every=0"]


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Processes that compute and never wait."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def speed(preset: str, updates: int, precision: str, variables: Mapping[str, str]) -> float:
    """Images a second: the median of what a training logs."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    rest = {key: value for key, value in os.environ.items() if key not in names}
    environment = {**rest, **variables}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "pathline", "train", preset, f"train.updates={updates}"]
        command += [
            "train.log_every=10",
            "train.save_every=100000",
            f"train.precision={precision}",
            *LOGGED,
            "--out",
            str(run),
        ]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return statistics.median(r["images_per_second"] for r in records if r["update"] > 20)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("settings", nargs="*", default=list(SETTINGS))
    arguments.add_argument("--preset", default="quickstart")
    arguments.add_argument("--updates", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    cells = [
        (name, precision, busy)
        for name in chosen.settings
        for precision in ("fp32", "bf16")
        for busy in (0, CORES)
    ]
    speeds: dict[tuple[str, str, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(chosen.rounds):
        for name, precision, busy in cells:
            with load(busy):
                rate = speed(chosen.preset, chosen.updates, precision, SETTINGS[name])
            speeds[name, precision, busy].append(rate)
            print(name, precision, f"{busy} busy", f"{rate:.0f}", file=sys.stderr, flush=True)
    print("| images a second | fp32 quiet | fp32 busy | bf16 quiet | bf16 busy |")
    print("|---|---|---|---|---|")
    for name in chosen.settings:
        row = [statistics.median(speeds[cell]) for cell in cells if cell[0] == name]
        print(f"| {name} | " + " | ".join(f"{rate:.0f}" for rate in row) + " |")


if __name__ == "__main__":
    main()
