"""`pathline train`: a flow on a preset or your own images; evaluation/training.py trains it."""

import time
from collections.abc import Sequence
from pathlib import Path

from pathline.config.resolve import PRESETS
from pathline.config.run import Run
from pathline.console import Say, open_console, say_on
from pathline.evaluation.own_pictures import fit_settings
from pathline.evaluation.training import EXIT, read_command, run_training
from pathline.hints import command_line
from pathline.ranges import NotNegative, Seed
from pathline.recipes.quickstart import finish
from pathline.runs.folder import FLOW, Layers, Opened
from pathline.runs.launch import launch
from pathline.runs.resume import require_data
from pathline.training.distributed import launched_rank


def train(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    resume: str | None = None,
    out: Path | None = None,
    seed: Seed | None = None,
    device: str | None = None,
    procs: NotNegative = 1,
    debug: bool = False,
) -> int:
    """Train a flow on a preset's data or on your own images.

    Parameters
    ----------
    what:
        A preset (`pathline config list`) or a folder, parquet or tar file of your own images.
    overrides:
        Settings as key=value, such as train.updates=2000 or objective.prediction=x1.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    resume:
        "latest", a run folder or one of its checkpoints.
    out:
        The new run's folder; by default runs/NAME-1, -2, …
    seed:
        Of weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    procs:
        Processes on this machine, one per GPU; several machines: docs/many-gpus.md.
    debug:
        Show tracebacks.
    """
    del debug  # read by cli.py
    started = time.perf_counter()
    console = open_console(quiet=launched_rank() > 0)
    say = say_on(console)
    layers = Layers(what, config, overrides, {"seed": seed, "device": device})
    run, opened = read_settings(layers, resume=resume, out=out, say=say)
    # Settings were read here already, so that a mistake is printed once.
    if procs != 1:
        return launch(procs, run, say)
    trained = run_training(run, out, opened, console)
    # A quickstart that was interrupted ends as one: with scores, sheets and what to try.
    if trained.outcome.reason == "done" and opened and run.name == "quickstart":
        if launched_rank() == 0:
            finish(trained, console, started)
    elif trained.outcome.reason == "done":
        say(f"next: {command_line('generate', trained.folder)}")
    return EXIT[trained.outcome.reason]


def read_settings(
    layers: Layers, *, resume: str | None, out: Path | None, say: Say
) -> tuple[Run, Opened | None]:
    """The settings of a training, fitted to own pictures, and the run that it resumes."""
    if resume is None:
        require_data(layers, FLOW, PRESETS)
        layers = fit_settings(layers, say)
    return read_command("flow", layers, resume=resume, out=out, say=say)
