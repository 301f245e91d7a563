"""Train a flow from a program; `pathline train` does the same."""

from pathlib import Path
from typing import Any

from pathline.api.arguments import sentences, to_path, to_words
from pathline.api.flow import Flow, load
from pathline.console import open_console, say_on
from pathline.errors import REFUSED, PathlineError
from pathline.evaluation.training import run_training
from pathline.recipes.train import read_settings
from pathline.runs.folder import Layers


def train(
    what: str | Path | None = None,
    /,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    config: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Flow:
    """Train a flow and load it.

    Parameters
    ----------
    what:
        A preset (`pathline config list`), or a folder, parquet or tar file of your own images.
    out:
        The new run's folder, which must be empty or not exist; by default runs/NAME-1, -2, …
    resume:
        A run folder, one of its checkpoints, or "latest", to continue a training; without `what`.
    config:
        A YAML file of settings, which those given here override.
    seed:
        Of weights, order and noise.
    device:
        "auto", "cpu", "cuda", "cuda:1", "mps".
    quiet:
        Print nothing.
    settings:
        All other settings (docs/settings.md), nested or dotted: train={"updates": 500},
        optimizer={"lr": 1e-3}, **{"train.batch": 32}.

    Raises PathlineError: with code 2 for wrong settings or images, before anything is trained; with
    code 3 if the loss was not finite several times in a row. An interruption (Ctrl-C, the stop
    button of a notebook) saves a checkpoint and then raises KeyboardInterrupt.
    """
    console = open_console(quiet=quiet)
    with sentences("train"):
        layers = Layers(
            None if what is None else str(to_path(what)),
            [to_path(config)] if config else [],
            to_words(settings),
            {"seed": seed, "device": device},
        )
        resumed = None if resume is None else str(to_path(resume))
        folder = to_path(out) if out else None
        run, opened = read_settings(layers, resume=resumed, out=folder, say=say_on(console))
        trained = run_training(run, folder, opened, console)
    update, reason = trained.outcome.progress.update, trained.outcome.reason
    if reason == "interrupted":
        raise KeyboardInterrupt(
            f"Interrupted at update {update}. Continue with "
            f"pathline.train(resume={str(trained.folder)!r})."
        )
    if reason == "diverged":
        raise PathlineError(
            f"{trained.folder} stopped at update {update} because its loss or gradient was not "
            "finite several times in a row. Lower optimizer.lr, or set train.precision=fp32.",
            REFUSED,
        )
    return load(trained.folder, device=run.device)
