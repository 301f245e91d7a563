"""Start this very command in several processes of this machine, by torchrun's own launcher."""

import logging
import os
import sys
from collections.abc import Callable
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

from pathline.config.run import Run


def launch(procs: int, run: Run, say: Callable[[str], None]) -> int:
    """Run `pathline` with this process's arguments in `procs` processes; returns their exit code.

    Raises ValueError for a number that can't be.
    """
    lanes = procs * run.train.accumulate
    if procs < 1 or run.train.batch % lanes:
        raise ValueError(
            f"--procs {procs} can't share train.batch={run.train.batch} in "
            f"{run.train.accumulate} accumulated parts; want a divisor of "
            f"{run.train.batch // run.train.accumulate}."
        )
    words = _without(sys.argv[1:], "--procs")
    if run.train.strategy == "none":
        say(f"{procs} processes: train.strategy=ddp")
        words.append("train.strategy=ddp")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # for the last checkpoint
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    meet = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid4()}"]
    asked = [*meet, f"--nproc-per-node={procs}", "-m", "pathline", *words]
    config, command, arguments = config_from_args(get_args_parser().parse_args(asked))
    try:
        elastic_launch(config, command)(*arguments)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:
        return 130
    return 0


def _without(words: list[str], option: str) -> list[str]:
    """The words but for an option with a value, as "--procs 2" or "--procs=2"."""
    left, skip = [], False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            left.append(word)
        skip = word == option
    return left
