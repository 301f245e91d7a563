"""Fréchet distance by backbone forwards: what each way to learn buys for equal compute.

    python benchmarks/objectives.py train digits --updates 600 --seeds 0 1 2 --out FOLDER
    python benchmarks/objectives.py train digits --updates 600 --seeds 0 1 2 --out FOLDER \
        --share 0.7 --arms contrastive dispersive tread
    python benchmarks/objectives.py tell FOLDER

An arm (benchmarks/arms.py) is the preset with some settings changed. What its update costs beside
flow's is measured first, in turns within this process (benchmarks/costs.py); it makes `updates`
divided by that, its schedule over these. With --share it makes that share of flow's updates
instead: so many fewer pictures. Guidance is off. A row is kept in FOLDER/rows.jsonl as soon as it
is known, and what is there is not done again. Distances by `pca`, beside real against real.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arms import ARMS, settings
from costs import arm_of, race
from rich.console import Console

from pathline.assemble import sampler
from pathline.config.pick import Pick, pick
from pathline.config.run import Run
from pathline.evaluation.score import Scorer, prepare_scorer
from pathline.evaluation.shared_sampling import shared_sampler
from pathline.evaluation.training import Trained, run_training
from pathline.evaluation.training_images import training_items, training_reference
from pathline.metrics.frechet import frechet
from pathline.metrics.frechet import statistics as moments

ROWS, FACTS, COSTS, FIGURE = "rows.jsonl", "facts.json", "costs.json", "objectives.png"
FORWARDS = (1, 2, 4, 8, 16, 32, 50)
ROUNDS = 7  # of the race that tells what an arm's update costs
Row = Mapping[str, Any]  # arm, seed, share, updates, drawn, distances: {forwards: distance}


def trained(run: Run) -> Trained:
    """The training, in a folder that nobody keeps. Ends the script if it was cut short."""
    folder = Path(tempfile.mkdtemp()) / "run"
    result = run_training(run, folder, None, Console(quiet=True))
    if result.outcome.reason != "done":
        raise SystemExit(f"{result.outcome.reason} at update {result.outcome.progress.update}")
    return result


def distance(result: Trained, run: Run, forwards: int, scorer: Scorer, n: int) -> float:
    """Of n pictures drawn without guidance in so many steps."""
    settings_of = replace(run.sample, steps=forwards, guidance=pick("none"))
    items = training_items(run, result.data, n, 0)
    draws = sampler(settings_of, result.parts.path)
    sample = shared_sampler(result.parts, draws, 250, result.team.players[0].precision.autocast)
    with result.team.players[0].emas[0].lent_to(result.team.players[0].network):
        features = scorer.feature.embed(sample(items, list(range(n))))
    return frechet(moments(features), moments(scorer.real))


def rows_of(folder: Path) -> list[Row]:
    file = folder / ROWS
    return (
        [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    )


def arms_left(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Every arm and seed that no row tells of yet, seed by seed."""
    done = {(row["arm"], row["seed"], row["share"]) for row in rows_of(options.out)}
    for seed in options.seeds:
        for arm in options.arms:
            if (arm, seed, options.share) not in done:
                yield arm, seed


def costs_of(options: argparse.Namespace) -> dict[str, float]:
    """What an update of each arm costs, flow's being 1; measured once for a folder."""
    file = options.out / COSTS
    costs = json.loads(file.read_text("utf-8")) if file.exists() else {}
    missing = [arm for arm in options.arms if arm not in costs]
    if missing and not options.share:
        names = dict.fromkeys(["flow", *missing])
        runs = {arm: settings(options.preset, arm, options.settings) for arm in names}
        took = race({arm: arm_of(run) for arm, run in runs.items()}, ROUNDS)
        middle = {arm: statistics.median(seconds) for arm, seconds in took.items()}
        costs |= {arm: round(middle[arm] / middle["flow"], 3) for arm in names}
        file.write_text(json.dumps(costs, indent=1), encoding="utf-8")
    return costs


def scorer_of(run: Run, result: Trained, options: argparse.Namespace) -> Scorer:
    """The real pictures as the feature sees them; what it is goes into the folder."""
    device = next(result.team.players[0].network.parameters()).device
    real = training_reference(run, result.data, options.n, 0)
    scorer = prepare_scorer(Pick("pca"), real, options.n, 0, device)
    facts = {
        "preset": options.preset,
        "settings": options.settings,
        "updates of flow": options.updates,
        "n": options.n,
        "feature": scorer.feature.name,
        "real against real": scorer.baseline["FD-pca"],
        "of so many each": scorer.baseline_n,
    }
    (options.out / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return scorer


def compare(options: argparse.Namespace) -> None:
    """Train and judge every arm and seed that is left."""
    options.out.mkdir(parents=True, exist_ok=True)
    costs, scorer = costs_of(options), None
    for arm, seed in arms_left(options):
        updates = max(10, round(options.updates * (options.share or 1 / costs[arm])))
        overrides = [*options.settings, f"train.updates={updates}", f"seed={seed}"]
        run = settings(options.preset, arm, overrides)
        result = trained(run)
        scorer = scorer or scorer_of(run, result, options)
        for sampling, how in ARMS[arm].draws.items():
            drawing = settings(options.preset, arm, [*overrides, *how])
            distances = {
                k: distance(result, drawing, k, scorer, options.n) for k in options.forwards
            }
            row = {"arm": arm, "seed": seed, "share": options.share, "updates": updates}
            with (options.out / ROWS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "drawn": sampling, "distances": distances}) + "\n")
            print(
                arm,
                seed,
                sampling,
                {k: round(value, 3) for k, value in distances.items()},
                flush=True,
            )


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str, float], list[Row]]:
    """Rows that differ in nothing but their seed."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["drawn"], row["share"]].append(row)
    return dict(groups)


def summary(rows: Sequence[Row]) -> dict[int, tuple[float, float]]:
    """Mean over seeds and half of greatest less least, by forwards."""
    groups = {}
    for forwards in rows[0]["distances"]:
        column = [row["distances"][forwards] for row in rows]
        groups[int(forwards)] = statistics.mean(column), (max(column) - min(column)) / 2
    return groups


def table(folder: Path) -> Iterator[str]:
    """Markdown, an arm a line."""
    facts, groups = json.loads((folder / FACTS).read_text("utf-8")), grouped(rows_of(folder))
    forwards = list(summary(next(iter(groups.values()))))
    yield f"{json.dumps(facts)}\n"
    yield f"| | updates | seeds | {' | '.join(map(str, forwards))} |"
    yield "|---" * (3 + len(forwards)) + "|"
    for (arm, sampling, share), rows in groups.items():
        pairs = summary(rows).values()
        cells = [f"{mean:.2f}" + f" ± {spread:.2f}" * (len(rows) > 1) for mean, spread in pairs]
        name = f"{arm}, {sampling}" + (f", {share:g} of the pictures" if share else "")
        yield f"| {name} | {rows[0]['updates']} | {len(rows)} | {' | '.join(cells)} |"


def plot(folder: Path) -> Path:
    """Distances over forwards, those of equal compute."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    facts = json.loads((folder / FACTS).read_text("utf-8"))
    figure, axes = pyplot.subplots(figsize=(10, 5))
    groups = {key: rows for key, rows in grouped(rows_of(folder)).items() if not key[2]}
    for number, ((arm, sampling, _), rows) in enumerate(groups.items()):
        distances = summary(rows)
        means, spreads = zip(*distances.values(), strict=True)
        (line, *_) = axes.errorbar(list(distances), means, spreads, marker="o", ms=3, capsize=2)
        line.set(label=f"{arm}, {sampling}", linestyle="-" if number < 10 else "--")
    axes.axhline(facts["real against real"], color="grey", lw=0.8, ls=":", label="real, two halves")
    axes.set(xscale="log", yscale="log", xlabel="backbone forwards", ylabel="Fréchet distance")
    axes.set_xticks(FORWARDS, map(str, FORWARDS))
    axes.set_title(f"{facts['preset']}: equal training compute, {facts['feature']}")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(folder / FIGURE, dpi=120)
    return folder / FIGURE


def tell(options: argparse.Namespace) -> None:
    print("\n".join(table(options.out)))
    print(plot(options.out))


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = arguments.add_subparsers(required=True)
    train = verbs.add_parser("train", help="train and judge the arms that are left")
    train.set_defaults(verb=compare)
    train.add_argument("preset")
    train.add_argument("--settings", nargs="+", default=[], help="of every arm, key=value")
    train.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    train.add_argument("--updates", type=int, default=600, help="of the arm `flow`")
    train.add_argument("--share", type=float, default=0.0, help="of flow's pictures; 0: by cost")
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--forwards", type=int, nargs="+", default=FORWARDS)
    train.add_argument("--n", type=int, default=1000, help="pictures drawn")
    train.add_argument("--out", type=Path, required=True)
    printing = verbs.add_parser("tell", help="table and curves of a folder")
    printing.set_defaults(verb=tell)
    printing.add_argument("out", type=Path)
    options = arguments.parse_args()
    options.verb(options)


if __name__ == "__main__":
    main()
