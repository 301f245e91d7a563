"""What each objective, backbone and term buys in equal time: Fréchet distance by backbone forwards.

    python benchmarks/objectives.py digits --seconds 60 --seeds 0 1 2

An arm is the preset with some settings changed (arms.py). All arms first take turns at a few
updates to learn what they cost (costs.py); then each trains from scratch for as many as fit into
`seconds` (of CPU time, on a CPU), its schedule over these. Guidance is off. Distances by `pca`,
beside real against real.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from arms import ARMS, settings
from costs import arm_of, race
from rich.console import Console

from pathline.assemble import sampler
from pathline.config.pick import Pick, pick
from pathline.config.run import Run
from pathline.recipes.measured import Judge, asked_of, drawer, judge, score, training_pictures
from pathline.recipes.train import Trained, run_training

ROUNDS = 5  # of the race that tells what an arm's update costs


def trained(run: Run) -> Trained:
    """The training, in a folder that nobody keeps."""
    return run_training(run, Path(tempfile.mkdtemp()) / "run", None, Console(quiet=True))


def updates_in(given: argparse.Namespace) -> dict[str, int]:
    """How many updates of each arm fit into the seconds; all are timed in turns."""
    runs = {arm: settings(given.preset, arm, 0, 800, given.settings) for arm in given.arms}
    took = race({arm: arm_of(run) for arm, run in runs.items()}, ROUNDS)
    return {
        arm: max(10, round(given.seconds / statistics.median(seconds)))
        for arm, seconds in took.items()
    }


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
    judged, fitting = None, updates_in(given)
    for arm, updates in fitting.items():
        rows: dict[str, list] = {}
        for seed in given.seeds:
            run = settings(given.preset, arm, seed, updates, given.settings)
            found = trained(run)
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
