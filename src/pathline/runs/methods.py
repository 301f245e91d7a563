"""Methods of training: what differs between them, as a table; evaluation/training.py uses it.

A new method is a function (run, parts, placement) -> Team in a row of METHODS. It may give each
player its own optimizer, averages, clipping, `every` and `begin` (`team.build_player`), and place
teachers or references with `team.freeze`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from pathline.assemble import assemble, check_settings, optimizer, put_on, rate, warnings_of
from pathline.backbones.token_routing import route_sampler
from pathline.compatibility import push_share
from pathline.config.codec_run import warnings_of as codec_warnings
from pathline.config.resolve import read
from pathline.config.run import Run
from pathline.flow.guidance import Push
from pathline.objectives.with_route import with_route
from pathline.parts import Parts
from pathline.runs import codec_method, init_weights
from pathline.runs.contrastive_mean import (
    mean_velocity,
    mean_velocity_tensors,
    measure_mean,
)
from pathline.runs.dataset import Dataset, LoadedData
from pathline.runs.feed import feeder, flow_feeder, load_data
from pathline.runs.folder import (
    FLOW,
    Kind,
    Layers,
    Opened,
)
from pathline.runs.from_cache import adopt_cache
from pathline.runs.prompts import with_prompts
from pathline.tables import TABLES
from pathline.text.table import reads_of
from pathline.training.distributed import World, from_first_rank
from pathline.training.ema import exponential
from pathline.training.loop import Feed
from pathline.training.players import Player
from pathline.training.power_ema import power_function
from pathline.training.probes import timed
from pathline.training.team import Placement, Team, build_player

Say = Callable[[str], None]
VALIDATION_TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


class Method(NamedTuple):
    """The steps of a training that depend on what is trained."""

    kind: Kind[Any]  # file and schema of its settings
    read_settings: Callable[[Layers, Opened | None, Say], Any]
    load_data: Callable[[Any, Path | None, Console], LoadedData]
    build_parts: Callable[[LoadedData, Path | None, torch.device, Say], tuple[Any, Dataset]]
    build_players: Callable[[Any, Any, Placement], Team]
    feeder: Callable[[Any, Dataset, torch.device, World], Feed]
    describe: Callable[[Any, Any], str]  # one phrase on the run and its parts
    warnings: Callable[[Any], list[str]] = lambda _: []  # settings that are seldom meant


def read_flow_settings(layers: Layers, opened: Opened[Run] | None, say: Say) -> Run:
    """The settings of a flow, with those of its cache. Raises ValueError for all that is wrong."""
    settings = read(*layers[:4], base=layers.base, fitted=layers.fitted, tables=TABLES)
    run = with_prompts(init_weights.resolve_init(adopt_cache(settings), opened, say))
    check_settings(run)
    return run


def build_flow(
    loaded: LoadedData, saved: Path | None, device: torch.device, say: Say
) -> tuple[Parts, Dataset]:
    """Parts with initial weights, on the device, and the dataset.

    saved: the checkpoint of a resumed run, which brings weights and mean velocity.
    """
    parts = assemble(loaded.run, loaded.facts)
    init_weights.load_init(loaded.run, parts, saved, say)
    put_on(parts, device)
    data = loaded.dataset_for(parts)
    # The mean needs all training data, so a resumed run takes its checkpoint's.
    push = mean_velocity(loaded.run, saved)
    if push is None and (share := push_share(loaded.run)):
        mean = from_first_rank(lambda: measure_mean(loaded.run, parts.path, data, device))
        push = Push(share, mean)
    return parts._replace(push=push), data


def flow(run: Run, parts: Parts, placement: Placement) -> Team:
    """One player, the network of a flow; its validation is as its training, and at fixed times."""
    # Probes count the error by time in the criterion itself, which has velocity and output.
    criterion, error_by_time = timed(parts.criterion)
    watched = parts._replace(criterion=criterion) if run.train.probe_every else parts
    # As in training, so that the two can be compared; then at fixed times, where an error grows.
    draws = {"val/loss": parts.draw}
    draws |= {f"val/t={t:.2f}": parts.draw_at(t) for t in VALIDATION_TIMES}
    loss = partial(parts.objective.loss, criterion=parts.criterion, training=False)
    validation = {name: partial(loss, draw=draw) for name, draw in draws.items()}
    return Team(
        [flow_player(run, watched, placement)],
        validation=validation,
        tensors=mean_velocity_tensors(parts.push),
        probe_values=error_by_time,
    )


def flow_player(run: Run, parts: Parts, placement: Placement) -> Player:
    """The player of a flow."""
    # Loss, averages and optimizer are bound here, so that the player knows nothing of flows.
    loss = partial(parts.objective.loss, draw=parts.draw, criterion=parts.criterion)
    emas = [
        *(partial(exponential, decay=decay) for decay in run.train.ema),
        *(partial(power_function, sigma_rel=length) for length in run.train.power_ema),
    ]
    return build_player(
        "network",
        parts.network,
        with_route(loss, route_sampler(parts.network.backbone)),
        placement,
        optimizer=partial(optimizer, run),
        rate=rate(run),
        emas=emas,
        clip=run.train.clip,
    )


def _text_of(run: Run, _: Parts) -> str:
    conditions = {
        "nothing": "without captions or classes",
        "labels": "with classes",
        "words": "with captions, word by word",
        "captions": "with captions",
    }
    return f"{conditions[reads_of(run.text.name) or 'nothing']} (text={run.text.name})"


METHODS: dict[str, Method] = {
    "flow": Method(
        kind=FLOW,
        read_settings=read_flow_settings,
        load_data=load_data,
        build_parts=build_flow,
        build_players=flow,
        feeder=flow_feeder,
        describe=_text_of,
        warnings=warnings_of,
    ),
    "codec": Method(
        kind=codec_method.KIND,
        read_settings=codec_method.read_settings,
        load_data=codec_method.load_data,
        build_parts=codec_method.build_parts,
        build_players=codec_method.build_players,
        feeder=feeder,
        describe=codec_method.describe,
        warnings=codec_warnings,
    ),
}
