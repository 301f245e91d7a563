"""Presets of other objectives than flow matching, on the data of the presets they are named for."""

from collections.abc import Mapping
from dataclasses import replace

from pathline.config.pick import Pick, pick
from pathline.config.run import Run
from pathline.config.sections import About


def methods(presets: Mapping[str, Run]) -> tuple[Run, ...]:
    """The runs, made from those that are there."""
    return (
        _transition(presets["digits"]),
        _transition(presets["cifar10"]),
        _transition(presets["anime-256"]),
        _mean_flow(presets["digits"]),
    )


def _transition(run: Run) -> Run:
    steps = replace(run.sample, solver=Pick("transition"), steps=16)
    purpose = f"{run.name} by transition matching: the backbone once a step, a head for the rest"
    return replace(
        run,
        name=f"{run.name}-dtm",
        about=About(purpose=purpose, device=run.about.device),
        objective=Pick("transition"),
        sample=steps,
    )


def _mean_flow(run: Run) -> Run:
    purpose = f"{run.name} by mean flow: pictures in one to four steps"
    expect = "280 updates: Fréchet distance (pca, 500) 1.5, 1.0, 0.9 by 1, 2, 4 steps, real 0.6"
    # The loss holds the derivative in time: of waves 1000 times as fast it is mostly noise.
    times = {"takes_r": True, "time_scale": 1.0}
    backbone = Pick(run.backbone.name, {**run.backbone.options, **times})
    return replace(
        run,
        name=f"{run.name}-mean-flow",
        about=About(purpose, expect, "90 seconds of CPU for 280 updates", run.about.device),
        backbone=backbone,
        objective=Pick("mean_flow"),
        terms={"adaptive": {"power": 0.5}},  # 1 leads from the mean where errors are of few numbers
        sample=replace(run.sample, solver=Pick("jump"), guidance=pick("cfg", scale=1.0), steps=2),
    )
