"""What each objective, backbone and term buys in equal time: Fréchet distance by backbone forwards.

    python benchmarks/objectives.py digits --seconds 60 --seeds 0 1 2

An arm is the preset with some settings changed. Every arm first makes a few updates to learn what
they cost, then trains from scratch for as many as fit into `seconds` of this process's CPU time,
its schedule over these. Guidance is off. Distances by `pca`, beside real against real.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pathline.assemble import sampler
from pathline.config.pick import Pick, pick
from pathline.config.read import read
from pathline.config.run import Run
from pathline.recipes.measured import Judge, asked_of, drawer, judge, score, training_pictures
from pathline.recipes.train import Trained, run_training

QUIET = (
    *("train.sample_every=0", "train.validate_every=0", "train.save_every=1000000"),
    *("train.probe_every=0", "train.precision=fp32", "train.log_every=100"),
)
MEAN = ("backbone.takes_r=true", "terms={adaptive: 1.0}")
DDT = ("backbone=ddt", "backbone.width=128", "backbone.heads=4", "backbone.depth=2")
ARMS = {  # name -> settings changed, solvers it is drawn with
    "flow": ((), ("euler", "unipc2")),
    "ot": (("coupling=within_class",), ("euler",)),
    "contrastive": (("terms.contrastive=0.05",), ("euler",)),
    "dispersive": (("terms.dispersive=0.25", "backbone.look=2"), ("euler",)),
    "ddt": ((*DDT, "backbone.decoder=1"), ("euler",)),
    "mean_flow": (("objective=mean_flow", *MEAN), ("jump",)),
    "improved_mean_flow": (("objective=improved_mean_flow", *MEAN), ("jump",)),
    "transition": (("objective=transition", "sample.solver=transition"), ("transition",)),
}
TRIAL = 12  # updates that tell an arm's cost


def settings(preset: str, arm: str, seed: int, updates: int, further: list[str]) -> Run:
    own = [*ARMS[arm][0], f"train.updates={updates}", f"seed={seed}"]
    return read(preset, (), [*QUIET, *own, *further]).run


def trained(run: Run) -> tuple[Trained, float]:
    """The training in a folder that nobody keeps, and its CPU seconds."""
    begun = time.process_time()
    found = run_training(run, Path(tempfile.mkdtemp()) / "run", None, Console(quiet=True))
    return found, time.process_time() - begun


def updates_in(given: argparse.Namespace, arm: str) -> int:
    """How many updates of this arm fit into the seconds."""
    took = [trained(settings(given.preset, arm, 0, n, given.settings))[1] for n in (2, 2 + TRIAL)]
    return max(10, round(given.seconds / max((took[1] - took[0]) / TRIAL, 1e-3)))


def distances(found: Trained, run: Run, solver: str, judged: Judge, given) -> dict[int, float]:
    """Fréchet distance by backbone forwards."""
    items = asked_of(run, found.data, given.n, given.seed)
    out = {}
    for forwards in given.forwards:
        guidance = pick("cfg", scale=1.0)
        sample = replace(run.sample, solver=Pick(solver), steps=forwards, guidance=guidance)
        precision = found.player.precision.autocast
        draw = drawer(found.parts, sampler(sample, found.parts.path), 250, precision)
        with found.player.emas[0].lent_to(found.player.network):
            drawn = draw(items, list(range(given.n)))
        out[forwards] = score(judged, drawn, items, given.seed)["scores"]["frechet"]
    return out


def summary(runs: list[dict[int, float]]) -> dict[str, dict[int, float]]:
    """Mean over seeds and greatest less least, by forwards."""
    columns = {k: [one[k] for one in runs] for k in runs[0]}
    mean = {k: round(statistics.mean(column), 3) for k, column in columns.items()}
    return {"mean": mean, "spread": {k: round(max(c) - min(c), 3) for k, c in columns.items()}}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("preset")
    arguments.add_argument("settings", nargs="*")
    arguments.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--seed", type=int, default=0, help="of the pictures drawn")
    arguments.add_argument("--forwards", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 50])
    arguments.add_argument("--n", type=int, default=1000)
    given = arguments.parse_args()
    judged = None
    for arm in given.arms:
        updates, rows = updates_in(given, arm), {}
        for seed in given.seeds:
            run = settings(given.preset, arm, seed, updates, given.settings)
            found, _ = trained(run)
            if judged is None:
                device = next(found.player.network.parameters()).device
                real = training_pictures(run, found.data, given.n, given.seed)
                judged = judge(Pick("pca"), real, given.n, given.seed, device)
                print(json.dumps({"real against real": judged.baseline, "n": given.n}), flush=True)
            for solver in ARMS[arm][1]:
                rows.setdefault(solver, []).append(distances(found, run, solver, judged, given))
        for solver, each in rows.items():
            told = {"arm": arm, "solver": solver, "updates": updates, **summary(each)}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
