"""Sampling the images that are scored, shared among the processes of a run."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from pathline.evaluation.training_images import REPEATS
from pathline.generate import Autocast, sample_images
from pathline.parts import Parts, Sampler
from pathline.training.distributed import gathered, place
from pathline.types import Item

SampleFn = Callable[[Sequence[Item], Sequence[int]], Tensor]  # items, seeds -> uint8 [n c h w]
Progress = Callable[[Sequence[slice]], Iterable[slice]]  # the batches, with a progress bar

BATCHES = 8  # least number of batches, so that processes can share them
REPEATED_ITEMS = 4  # items whose diversity is measured


def shared_sampler(
    parts: Parts,
    sampler: Sampler,
    batch: int,
    autocast: Autocast,
    *,
    progress: Progress = iter,
) -> SampleFn:
    """A function from items and seeds to the images of these parts, shared among processes."""

    def sample(items: Sequence[Item], seeds: Sequence[int]) -> Tensor:
        return sample_images(parts, items, seeds, sampler, batch=batch, autocast=autocast)

    return partial(sample_shared, sample, batch=batch, progress=progress)


def sample_shared(
    sample: SampleFn,
    items: Sequence[Item],
    seeds: Sequence[int],
    *,
    batch: int,
    progress: Progress = iter,
) -> Tensor:
    """All images, on every process, each of which sampled its share of the batches.

    The batches are the same for any number of processes, and so are the images, to the bit. Every
    process samples equally often, as sharded weights require: surplus batches are sampled twice and
    counted once.
    """
    batch = min(batch, math.ceil(len(items) / BATCHES))
    batches = [slice(start, start + batch) for start in range(0, len(items), batch)]
    rank, world = place()
    rounds = range(math.ceil(len(batches) / world))
    mine = [batches[min(turn * world + rank, len(batches) - 1)] for turn in rounds]
    images = [sample(items[rows], seeds[rows]) for rows in progress(mine)]
    by_rank = gathered(images)
    return torch.cat([by_rank[at % world][at // world] for at in range(len(batches))])


def sample_repeats(sample: SampleFn, items: Sequence[Item], seed: int) -> dict[Item, Tensor]:
    """REPEATS images for each of the first different items, from seeds of their own."""
    repeated = list(dict.fromkeys(items))[:REPEATED_ITEMS]
    rows = [item for item in repeated for _ in range(REPEATS)]
    images = sample(rows, [seed + index for index in range(len(rows))])
    return dict(zip(repeated, images.split(REPEATS), strict=True))
