"""Processes of a training: started by torchrun's own launcher, stopped by signals."""

import logging
import os
import signal
import sys
import threading
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

# Ctrl-C, `kill`, a closed terminal, and the warning of batch systems before the time limit.
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
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
    handled = ",".join(number.name for number in _stopping())
    rendezvous.append(f"--signals-to-handle={handled}")  # each is sent on to all processes
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


def _stopping() -> list[signal.Signals]:
    """The signals of STOPPING that this system has; one that `nohup` ignores stays ignored."""
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    is_ignored = hangup and signal.getsignal(hangup) is signal.SIG_IGN
    return [number for number in numbers if not (is_ignored and number == hangup)]


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """A function that returns whether a signal came: Ctrl-C or one of STOPPING.

    A training then ends with a checkpoint. A second Ctrl-C, or the same signal again after ECHO
    seconds, stops the process. Outside of the main thread Python hands out no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    caught: dict[int, float] = {}
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def catch(number: int, _: Any) -> None:
        # A terminal that was closed takes no more text: writing to it would be an error.
        for stream in terminals:
            if not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        # torchrun repeats a signal, and Slurm sends SIGTERM after its warning.
        first = caught.setdefault(number, time.monotonic())
        if time.monotonic() - first > ECHO:
            raise KeyboardInterrupt

    old = {number: signal.signal(number, catch) for number in _stopping()}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
