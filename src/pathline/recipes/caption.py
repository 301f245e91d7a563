"""`pathline caption`: pictures -> what a model says of them, in metadata.jsonl with its maker."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pathline.captioning import model as captioner
from pathline.captioning.journal import Book, Task, opened, settle, to_do
from pathline.captioning.retry import Asking, answered
from pathline.captioning.templates import Template, opens_badly
from pathline.captioning.templates import template as read_template
from pathline.data.captions import MAKER, Record, append
from pathline.data.sources.folder import existing_folder
from pathline.dtypes import DtypeName, short_name
from pathline.training.device import pick_device
from pathline.training.distributed import World, joined

MODEL = "Qwen/Qwen3-VL-4B-Instruct"
SECONDS = 10  # between lines where there is no terminal
SHOWN = 5


def caption(
    folder: Path,
    /,
    *,
    model: str = MODEL,
    revision: str | None = None,
    template: str = "general",
    out: Path | None = None,
    side_cars: bool = False,
    resume: Annotated[bool, Parameter(negative="--no-resume")] = True,
    replace: bool = False,
    max_new_tokens: int = 512,
    batch: int = 4,
    temperature: float = 0.0,
    retries: int = 2,
    seed: int = 0,
    pixels: int = 589_824,
    device: str = "auto",
    dtype: Literal["auto", DtypeName] = "auto",
    dry_run: int = 0,
) -> int:
    """Caption the pictures of a folder with a vision-language model, into metadata.jsonl.

    Captions that people wrote stay first; what is made is added. Pictures that this model has
    captioned by this template are passed by, so that a command that was stopped is just repeated.

    Parameters
    ----------
    folder:
        Pictures, with or without captions.
    model:
        An image-text-to-text model of transformers: a folder, or a name on the hub.
    revision:
        Of a model on the hub: a branch, tag or commit.
    template:
        general, botanical or anime; or a .yaml, .json or .txt file.
    out:
        The file that the records go to; metadata.jsonl in the folder if left out.
    side_cars:
        Write a .txt beside each picture too, one caption a line.
    resume:
        With --no-resume every picture is captioned again.
    replace:
        Drop all captions there are, those of people too.
    max_new_tokens:
        Where an answer is cut off; a cut answer is no caption.
    batch:
        Pictures that are asked about at once.
    temperature:
        0 takes the likeliest words. An answer that won't do is tried again at 0.7 at least.
    retries:
        How often it is tried again before the picture is listed as a fault.
    seed:
        Of draws; each picture draws its own.
    pixels:
        Larger pictures are scaled down to so many pixels before the model sees them.
    device:
        auto, cpu, cuda, mps.
    dtype:
        Of the weights: auto as they are stored, fp32, bf16, fp16.
    dry_run:
        Print captions of so many pictures, and write nothing.
    """
    _refuse(batch=batch, max_new_tokens=max_new_tokens, pixels=pixels)
    _refuse(0, retries=retries, temperature=temperature, dry_run=dry_run)
    asked = read_template(template)
    where, commit = captioner.find_model(model, revision)
    maker = _maker(model, commit, asked, temperature, pixels, seed)
    asking = Asking(asked, maker, temperature, retries, seed, pixels, max_new_tokens)
    given = {"dtype": short_name(dtype), "max_new_tokens": max_new_tokens}
    with _processes(pick_device(device)) as (world, place, meet):
        console = Console(quiet=world.rank > 0)
        book = opened(existing_folder(folder), out)
        skip = resume and not dry_run
        tasks = to_do(book, maker, replace=replace) if skip else book.tasks
        meet()  # nobody writes before all have read
        if not dry_run:
            _tell(console, book, tasks, model, asked)
        else:
            tasks = tasks[:: max(1, len(tasks) // dry_run)][:dry_run]
        share = tasks[world.rank :: world.size]
        ask = captioner.load_model(where, device=place, **given) if share else None
        answers = answered(share, ask, asking, batch) if ask else iter(())
        if dry_run:
            return _show(console, answers)
        part = book.parts / f"part-{world.rank}.jsonl"
        try:
            _keep(answers, part, len(share), console, world)
        except KeyboardInterrupt:
            if world.size == 1:
                settle(book, replace=replace, side_cars=side_cars)
            raise
        meet()
        return 0 if world.rank else _end(console, book, replace, side_cars)


def _maker(
    model: str, commit: str, asked: Template, temperature: float, pixels: int, seed: int
) -> dict[str, str]:
    """What a caption hangs on; the length an answer may have doesn't change a whole one."""
    name = Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model
    drawn = f" seed={seed}" if temperature else ""
    settings = f"temperature={temperature:g} pixels={pixels}{drawn}"
    told = (name, commit, asked.name, asked.digest, settings)
    return dict(zip(MAKER, told, strict=True))


@contextmanager
def _processes(
    device: torch.device,
) -> Iterator[tuple[World, torch.device, Callable[[], None]]]:
    """This process among those that torchrun started, its device, and where all of them meet."""
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with joined("ddp" if many else "none", device) as (world, place):
        # one process may be hours ahead of another, more than a collective waits by default
        group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=30)) if many else None

        def meet() -> None:
            if many:
                dist.barrier(group)

        yield world, place, meet


def _keep(
    answers: Iterator[list[Record]], part: Path, total: int, console: Console, world: World
) -> None:
    """Each batch goes to this process's journal as it comes."""
    with _bar(console, total, world) as tick:
        for lines in answers:
            append(part, lines)
            tick(len(lines))


@contextmanager
def _bar(console: Console, total: int, world: World) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line now and then: pictures, images/s, time left."""
    start = last = time.monotonic()
    count = 0
    of = f" of process 1 of {world.size}" if world.size > 1 else ""
    texts = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*texts, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate="")

        def tick(more: int) -> None:
            nonlocal count, last
            count, now = count + more, time.monotonic()
            rate = count / max(now - start, 1e-9)
            left = timedelta(seconds=round((total - count) / rate))
            told = f"{rate:.3g} images/s, {left} left"
            bar.update(task, completed=count, rate=told)
            if not console.is_terminal and (now - last >= SECONDS or count == total):
                last = now
                console.print(f"{count}/{total} pictures{of}, {told}", highlight=False)

        yield tick


def _tell(console: Console, book: Book, tasks: list[Task], model: str, asked: Template) -> None:
    done = len(book.tasks) - len(tasks)
    told = f"{len(book.tasks)} pictures, {done} of them captioned already by {model}, {asked.name}"
    console.print(told, highlight=False, soft_wrap=True)


def _show(console: Console, answers: Iterator[list[Record]]) -> int:
    for line in (line for lines in answers for line in lines):
        for text in line.get("captions") or [f"FAULT {line['reason']}"]:
            told = f"{line['key']}: {text}"
            console.print(told, highlight=False, soft_wrap=True, markup=False)
    return 0


def _end(console: Console, book: Book, replace: bool, side_cars: bool) -> int:
    """The journals settled, told in a line or two; 1 where nothing but faults came."""
    outcome = settle(book, replace=replace, side_cars=side_cars)
    made, faults = outcome.captions, outcome.faults
    told = f"{len(made)} pictures captioned"
    told += f", {outcome.side_cars} side-cars written" if outcome.side_cars else ""
    bad = sum(opens_badly(text) for texts in made.values() for text in texts)
    told += f"; {bad} captions begin with words such as 'the image shows'" if bad else ""
    console.print(told, highlight=False)
    for line in faults[:SHOWN]:
        told = f"no caption: {line['key']}: {line['reason']}"
        console.print(told, highlight=False, soft_wrap=True, markup=False)
    if faults:
        told = f"{len(faults)} pictures have no caption; all are listed in {book.faults}"
        console.print(told, highlight=False, soft_wrap=True)
    return 1 if faults and not made else 0


def _refuse(least: int = 1, **settings: int | float) -> None:
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}; wanted at least {least}")
