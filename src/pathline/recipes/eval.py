"""`pathline eval`: scores of a run's images, or a folder's; evaluation/measure.py computes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pathline.console import open_console
from pathline.evaluation.measure import Request, measure
from pathline.evaluation.reference import is_run
from pathline.evaluation.report import print_results
from pathline.ranges import NotNegativeFloat, Positive, Seed, ShareBelowOne
from pathline.training.device import pick_device
from pathline.training.distributed import joined, place, strategy_of_launch


def evaluate(
    what: Path,
    /,
    *words: str,
    reference: Path | None = None,
    n: Positive | None = None,
    seed: Seed = 0,
    steps: Positive | None = None,
    solver: str | None = None,
    guidance: NotNegativeFloat | None = None,
    ema: ShareBelowOne | None = None,
    feature: Sequence[str] = (),
    metric: str | None = None,
    sweep: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    batch: Positive | None = None,
    size: Positive | None = None,
    device: str = "auto",
    out: Path | None = None,
    json: bool = False,
    debug: bool = False,
) -> int:
    """Score a run's images, or a folder of images, against real ones.

    Parameters
    ----------
    what:
        A run folder, one of its checkpoints, "latest", or a folder of sampled images.
    words:
        Settings as key=value: of sampling, such as grid=edm or guidance=interval, n, feature and
        metric (`sample.` or `eval.` before them may be left out), and a feature's options, such as
        pca.width=32. When WHAT is a folder: also the folder of real images, as by --reference.
    reference:
        A folder of real images, or a run whose training data they are. By default the run's own.
    n:
        Number of images, 1000 by default; of a folder as many as there are.
    seed:
        Seed of the first image and of every random choice.
    steps:
        Solver steps.
    solver:
        euler, heun, midpoint, unipc2, … (`pathline config list sample.solver`).
    guidance:
        Guidance scale; 1 is no guidance.
    ema:
        Which average of the weights; 0 for the weights themselves.
    feature:
        What images are compared by (`pathline config list eval.feature`); may be repeated.
    metric:
        What a sweep is ranked by: fid (the feature's Fréchet distance), kid, precision, recall,
        coverage, accuracy, …
    sweep:
        Axes such as guidance=1,1.5,2 steps=4,8,20: every combination is scored.
    batch:
        Images sampled at once.
    size:
        Crop the images of folders square and scale them to so many pixels.
    device:
        auto, cpu, cuda, cuda:1, mps.
    out:
        Folder of the results; by default RUN/eval, for folders none.
    json:
        Print the results as JSON and nothing else.
    debug:
        Show tracebacks.
    """
    del debug  # read by the command line
    flags = {
        **{"steps": steps, "solver": solver, "guidance.scale": guidance},
        **{"batch": batch, "ema": ema},
    }
    request = Request(what, words, reference, n, seed, feature, metric, sweep, size, flags)
    with joined(strategy_of_launch(), pick_device(device)) as (_, chosen):
        console = open_console(stderr=json, quiet=place()[0] > 0)
        results = measure(request, chosen, console)
        if place()[0] == 0:
            if out is None and is_run(what):
                out = Path(results[0]["what"]) / "eval"
            print_results(results, out, console, as_json=json)
    return 0
