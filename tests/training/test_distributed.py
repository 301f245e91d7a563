"""What a strategy leaves behind when its processes part."""

import gc

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pathline.training.distributed import joined, wrap


def wrappers():
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is DistributedDataParallel]


def test_no_ddp_outlives_its_processes():
    """One that does may never end: torch frees its group holding a lock that gloo waits for."""
    network = nn.Linear(2, 2)
    with joined("ddp", torch.device("cpu")) as (world, _):
        wrapped = wrap(network, world, precision="fp32", compiled=False)
        with wrapped.gradient_sync(True):
            wrapped.forward(torch.ones(1, 2)).sum().backward()
        assert len(wrappers()) == 1
    assert wrappers() == []
    assert network.weight.grad is not None  # what was learnt stays
