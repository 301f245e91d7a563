"""Ctrl-C and SIGTERM while a training runs: noted, so that it can end with a checkpoint."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AT_ONCE = 2.0  # seconds within which a second signal is an echo of the first


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C or SIGTERM came; a second one later stops at once."""
    caught: list[float] = []

    def catch(*_: Any) -> None:
        if caught and time.monotonic() - caught[0] > AT_ONCE:  # torchrun hands on what all got
            raise KeyboardInterrupt
        caught.append(time.monotonic())

    old = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
