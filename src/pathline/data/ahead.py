"""Reading ahead: threads decode the next pictures while the earlier ones are used."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_THREADS = 16


def map_ahead(
    work: Callable[[Item], Result], items: Sequence[Item], *, ahead: int, chunk: int = 1
) -> Generator[Result, None, None]:
    """`work(item)` of each item in order, computed by threads at most `ahead` items before its use.

    chunk: items per task; more than one where `work` is short. Close the generator to stop early.
    """

    def work_on(start: int) -> list[Result]:
        return [work(item) for item in items[start : start + chunk]]

    threads = min(MOST_THREADS, os.cpu_count() or 1)
    pool, queue = ThreadPoolExecutor(threads), deque[Future[list[Result]]]()
    try:
        # The queue keeps the order; it is waited for when full, so that results don't pile up.
        for start in range(0, len(items), chunk):
            queue.append(pool.submit(work_on, start))
            if len(queue) * chunk > ahead + threads * chunk:
                yield from queue.popleft().result()
        while queue:
            yield from queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for them
