"""Mutated inputs through the command line: no traceback, no hang, nothing lost without a word.

    python benchmarks/mutations.py configs --n 1000 --seed 0
    python benchmarks/mutations.py pictures --only 17        # one case again, its folder is left

Every case is a function of (kind, seed, number). A kind is a module beside this one, with

    prepare(shared)                  writes what all its cases read, once; shared: an empty folder
    mutate(rng, shared, folder)      writes one input into `folder` (empty) and gives its Case

Commands run in worker processes through `pathline.cli.main`, in the case's folder. A case is wrong
if it ends with a traceback or another code than 0, 2, 3 and 130, takes more processor seconds than
the limit, kills its process, or if its own `judge` says so: that it exits 0 with something lost, or
refuses what is right. Exits 1 if any case is wrong.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from pathline import cli

try:  # Windows has none
    import resource
except ImportError:
    resource = None

SIGXCPU = 24  # of a process that used up its processor seconds
PATIENCE = 10  # times the limit that a case may take by the clock

KINDS = {
    "configs": "mutations_configs",
    "pictures": "mutations_pictures",
    "runs": "mutations_runs",
}
CODES = (0, 2, 3, 130)  # done, refused, stopped on NaN, interrupted


class Answer(NamedTuple):
    """What one command did."""

    code: int
    text: str  # of both streams


class Case(NamedTuple):
    """One mutated input and the commands that read it."""

    change: str  # the kind of change, which cases are counted by
    detail: str  # what exactly was changed
    commands: Sequence[Sequence[str]]  # without `pathline`
    judge: Callable[[list[Answer]], str]  # what is wrong with the answers, "" if nothing


class Outcome(NamedTuple):
    """What came of a case."""

    number: int
    change: str
    detail: str
    result: str  # "exit 2", "wrong", "traceback", "hang", "died"
    text: str  # what is wrong, and the output


def answer(command: Sequence[str]) -> Answer:
    """Run one command line in this process."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            code = cli.main(command)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            code = 1
            traceback.print_exc()
    return Answer(code, stream.getvalue())


def run_case(case: Case, number: int, started: Callable[[], None]) -> Outcome:
    """Run the commands of a case in turn, up to the first that fails, and judge their answers."""
    answers: list[Answer] = []
    for command in case.commands:
        started()
        answers.append(answer(command))
        if answers[-1].code:
            break
    last = answers[-1]
    outcome = Outcome(number, case.change, case.detail, f"exit {last.code}", last.text)
    if "Traceback (most recent call" in last.text or last.code not in CODES:
        return outcome._replace(result="traceback")
    if wrong := case.judge(answers):
        return outcome._replace(result="wrong", text=f"{wrong}\n{last.text}")
    return outcome


def limit_processor(seconds: float) -> None:
    """End this process after so many processor seconds more; a busy machine makes none late."""
    if resource:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds + 1), most))


def work(pipe: Connection, kind: str, seed: int, shared: Path, limit: float) -> None:
    """A worker process: receives (number, folder), sends "start" for each command, the Outcome."""
    module = importlib.import_module(KINDS[kind])
    answer(["config", "show", "debug"])  # so that imports are not counted as a hang
    pipe.send("ready")
    while True:
        number, folder = pipe.recv()
        os.chdir(folder)
        case = module.mutate(random.Random(f"{kind} {seed} {number}"), shared, folder)
        limit_processor(limit)
        pipe.send(case[:2])
        outcome = run_case(case, number, lambda: pipe.send("start"))
        os.chdir(shared)  # a folder that is somebody's place cannot be deleted everywhere
        pipe.send(outcome)


class Worker:
    """A process that runs cases, and is replaced when it hangs or dies."""

    def __init__(self, arguments: tuple[Any, ...], limit: float) -> None:
        self.arguments, self.limit = arguments, limit
        self.start()

    def start(self) -> None:
        """A fresh process, ready for its first case."""
        self.pipe, end = multiprocessing.get_context("spawn").Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(end, *self.arguments), daemon=True)
        self.process.start()
        end.close()
        self.pipe.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def outcome(self, number: int, folder: Path) -> Outcome:
        """Run case `number` in an empty folder."""
        outcome = Outcome(number, "?", "?", "", "")
        self.pipe.send((number, folder))
        try:
            while self.pipe.poll(PATIENCE * self.limit):
                match self.pipe.recv():
                    case Outcome() as finished:
                        return finished
                    case (change, detail):
                        outcome = outcome._replace(change=change, detail=detail)
            result = "hang"
        except (EOFError, ConnectionError):
            self.process.join()
            result = "hang" if self.process.exitcode == -SIGXCPU else "died"
        self.stop()
        self.start()
        return outcome._replace(result=result)


def run_all(numbers: Iterator[int], start: Callable[[], Worker], count: int) -> list[Outcome]:
    """Every case, by so many workers; wrong ones are printed as they come."""
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def serve() -> None:
        worker = start()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return worker.stop()
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                outcomes.append(worker.outcome(number, Path(folder)))
            if not outcomes[-1].result.startswith("exit"):
                print(describe(outcomes[-1]), flush=True)

    threads = [threading.Thread(target=serve) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def describe(outcome: Outcome) -> str:
    head = f"{outcome.result} · {outcome.number} · {outcome.change}: {outcome.detail}"
    return "\n    ".join([head, *outcome.text.strip().splitlines()[-12:]])


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts of every change by result, as Markdown, with a last line of sums."""
    results = sorted({outcome.result for outcome in outcomes})
    counts = Counter((outcome.change, outcome.result) for outcome in outcomes)
    sums = Counter(outcome.result for outcome in outcomes)
    lines = [f"| change | {' | '.join(results)} |", f"|---|{'---:|' * len(results)}"]
    for change in sorted({outcome.change for outcome in outcomes}):
        cells = [str(counts[change, result] or "") for result in results]
        lines.append(f"| {change} | {' | '.join(cells)} |")
    total = " | ".join(str(sums[result]) for result in results)
    return "\n".join([*lines, f"| **{len(outcomes)} cases** | {total} |"])


def repeat(kind: str, seed: int, number: int, shared: Path) -> None:
    """One case in this process; its folder is left, its output printed."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    module = importlib.import_module(KINDS[kind])
    case = module.mutate(random.Random(f"{kind} {seed} {number}"), shared, folder)
    for command in case.commands:
        print(f"cd {folder}; pathline {' '.join(command)}")
    outcome = run_case(case, number, lambda: None)
    print(f"{describe(outcome._replace(text=''))}\n{outcome.text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=10.0, help="processor seconds for a case")
    parser.add_argument("--only", type=int, help="the number of one case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as shared:
        folder = Path(shared)
        importlib.import_module(KINDS[options.kind]).prepare(folder)
        if options.only is not None:
            repeat(options.kind, options.seed, options.only, folder)
            return 0
        arguments = options.kind, options.seed, folder, options.limit
        start = lambda: Worker(arguments, options.limit)  # noqa: E731
        outcomes = run_all(iter(range(options.n)), start, options.workers)
    print(table(outcomes))
    return int(any(not outcome.result.startswith("exit") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
