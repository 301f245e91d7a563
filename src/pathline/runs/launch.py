"""Processes of a training: started by torchrun's own launcher, stopped by Ctrl-C or SIGTERM."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

from pathline.config.run import Run

ECHO = 2.0  # seconds within which a second signal is an echo of the first


def launch(procs: int, run: Run, say: Callable[[str], None]) -> int:
    """Run `pathline` with this process's arguments in `procs` processes; returns their exit code.

    Raises ValueError for a number that does not divide the batch.
    """
    lanes = procs * run.train.accumulate
    if procs < 1 or run.train.batch % lanes:
        raise ValueError(
            f"train.batch={run.train.batch} is not divisible by --procs {procs} × "
            f"train.accumulate={run.train.accumulate}. Choose a divisor of "
            f"{run.train.batch // run.train.accumulate} for --procs."
        )
    arguments = _without(sys.argv[1:], "--procs")
    if run.size != "auto":  # measured once, by this process
        arguments.append(f"size={run.size}")
    if run.train.strategy == "none":
        say(f"{procs} processes: train.strategy=ddp")
        arguments.append("train.strategy=ddp")
    # torchrun would give each process one thread; they share the cores instead.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # for the last checkpoint
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # A free port on this machine, and an id of this run alone.
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid4()}"]
    options = [*rendezvous, f"--nproc-per-node={procs}", "-m", "pathline", *arguments]
    config, command, command_arguments = config_from_args(get_args_parser().parse_args(options))
    try:
        elastic_launch(config, command)(*command_arguments)
    except ChildFailedError as error:
        # The first that failed has the reason; the others were stopped because of it.
        return error.get_first_failure()[1].exitcode
    except SignalException:
        return 130
    return 0


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments except an option with a value, as "--procs 2" or "--procs=2"."""
    rest, is_value = [], False
    for argument in arguments:
        if not is_value and argument != option and not argument.startswith(f"{option}="):
            rest.append(argument)
        is_value = argument == option
    return rest


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """A function that returns whether Ctrl-C or SIGTERM came; a second one stops the process.

    A training then ends with a checkpoint.
    """
    caught: list[float] = []

    def catch(*_: Any) -> None:
        if caught and time.monotonic() - caught[0] > ECHO:  # torchrun repeats it
            raise KeyboardInterrupt
        caught.append(time.monotonic())

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
