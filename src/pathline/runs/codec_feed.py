"""The pictures that a codec learns from: read once, given out in the order of the run's seed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pathline.codecs.pixel import encode
from pathline.config.codec_run import CodecRun
from pathline.config.run import Data, Run
from pathline.data import order as loader
from pathline.data.sources.source import Source
from pathline.runs.from_pictures import open_source as settled
from pathline.training.device import lane_rng
from pathline.training.loop import Progress
from pathline.training.players import Lane
from pathline.types import Batch, Cond


def source_of(run: CodecRun) -> tuple[CodecRun, Source]:
    """The run with its data source settled, and the source."""
    flow, source = settled(Run(data=Data(source=run.data.source)))
    return replace(run, data=replace(run.data, source=flow.data.source)), source


def feeder(
    run: CodecRun, pixels_of: Callable[[Tensor], Tensor], train: Tensor, device: torch.device
) -> Callable[[Progress], list[Lane]]:
    """The batch of an update: a function of the run's seed and progress alone."""

    def feed(progress: Progress) -> list[Lane]:
        places = loader.rows(progress.images, run.train.batch, seed=run.seed, count=len(train))
        rows = train[torch.as_tensor(places)]
        pixels = pixels_of(rows)
        if run.data.flip:
            epochs = np.arange(progress.images, progress.images + len(rows)) // len(train)
            coins = torch.as_tensor(loader.coins(run.seed, epochs, rows.numpy(), 0.5))
            mirrored = coins.to(device).view(-1, 1, 1, 1)
            pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        batch = Batch(encode(pixels), Cond(), Cond(), rows)
        return [(batch, lane_rng(run.seed, progress.update, 0, device))]

    return feed
