"""Score a run, or a folder of images, from a program; `pathline eval` does the same."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pathline.api.arguments import sentences, to_path, to_words
from pathline.api.flow import Flow
from pathline.console import open_console
from pathline.evaluation.measure import Request, measure
from pathline.evaluation.report import baseline_of, scores_of, write_json
from pathline.training.device import pick_device


class Scores(dict[str, float]):
    """Scores by name. `real`: what real images score against other real ones, where measured.

    `details`: all that `pathline eval --json` prints, with cautions and every feature.
    """

    def __init__(self, details: dict[str, Any]):
        super().__init__(_by_feature(details, scores_of))
        self.real = _by_feature(details, baseline_of)
        self.details = details

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><td>{escape(name)}</td><td>{value:.4g}</td>"
            f"<td>{f'{self.real[name]:.4g}' if name in self.real else ''}</td></tr>"
            for name, value in self.items()
        )
        head = "<tr><th></th><th>sampled</th><th>real</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


def evaluate(
    what: Flow | str | Path,
    /,
    *,
    reference: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    feature: str | Sequence[str] = (),
    size: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Scores:
    """Score a run's images, or a folder of images, against real ones.

    Parameters
    ----------
    what:
        A flow, a run folder, one of its checkpoints, "latest", or a folder of sampled images.
    reference:
        A folder of real images, or a run whose training data they are; by default the run's own.
    n:
        Number of images, 2 or more: 1000 by default, of a folder as many as there are. Scores
        mean something from hundreds on.
    seed:
        Of the first image and of every random choice.
    feature:
        What images are compared by (`pathline config list eval.feature`), one or several. The
        scores of a second feature have its name before theirs, "inception.kid".
    size:
        Crop the images of folders square and scale them to so many pixels.
    device:
        "auto", "cpu", "cuda", "cuda:1", "mps".
    out:
        A folder in which to write the results as JSON; by default they are not written.
    quiet:
        Print no progress.
    settings:
        Settings of sampling, such as steps=4, guidance=2 or ema=0, and options of features,
        such as pca={"width": 32}.

    Raises PathlineError for what cannot be scored.
    """
    with sentences("eval"):
        if isinstance(what, Flow):
            what, settings = what.checkpoint, {"ema": what.ema, **settings}
        request = Request(
            to_path(what),
            to_words(settings),
            reference=None if reference is None else to_path(reference),
            n=n,
            seed=seed,
            feature=[feature] if isinstance(feature, str) else feature,
            size=size,
        )
        (result,) = measure(request, pick_device(device), open_console(quiet=quiet))
        if out is not None:
            folder = to_path(out)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder, "eval", [result])
    return Scores(result)


def _by_feature(details: dict[str, Any], read: Callable[..., dict[str, float]]) -> dict[str, float]:
    """Numbers of all features in one dictionary, the first feature's by their names alone."""
    numbers = read(details, 0)
    for at, feature in enumerate(details["features"][1:], start=1):
        numbers |= {f"{feature['feature']}.{key}": v for key, v in read(details, at).items()}
    return numbers
