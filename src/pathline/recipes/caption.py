"""`pathline caption`: images -> captions of a vision-language model, in metadata.jsonl."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from cyclopts import Parameter
from rich.console import Console

from pathline.captioning import model as captioner
from pathline.captioning.journal import (
    Collection,
    find_uncaptioned,
    merge_journals,
    open_collection,
)
from pathline.captioning.records import MAKER, Record, append_lines
from pathline.captioning.retry import Request, caption_batches
from pathline.captioning.templates import Template, load_template, opens_badly
from pathline.console import Say, open_console, progress, say_on
from pathline.data.sources.folder import existing_folder
from pathline.dtypes import DtypeName, short_name
from pathline.ranges import NotNegative, NotNegativeFloat, Positive, Seed
from pathline.training.device import pick_device
from pathline.training.distributed import World, joined, launched_size, strategy_of_launch

MODEL = "Qwen/Qwen3-VL-4B-Instruct"
MAX_FAULTS = 5  # printed; the others are in the list


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
    max_new_tokens: Positive = 512,
    batch: Positive = 4,
    temperature: NotNegativeFloat = 0.0,
    retries: NotNegative = 2,
    seed: Seed = 0,
    pixels: Positive = 589_824,
    device: str = "auto",
    dtype: Literal["auto", DtypeName] = "auto",
    dry_run: NotNegative = 0,
) -> int:
    """Caption the images of a folder with a vision-language model, into metadata.jsonl.

    Captions that people wrote stay first; new ones are added. Images that this model has captioned
    with this template are skipped, so that a command that was stopped is just repeated.

    Parameters
    ----------
    folder:
        Images, with or without captions.
    model:
        An image-text-to-text model of transformers: a folder, or a name on the hub.
    revision:
        Of a model on the hub: a branch, tag or commit.
    template:
        general, botanical or anime; or a .yaml, .json or .txt file.
    out:
        The file of the records; metadata.jsonl in the folder if left out.
    side_cars:
        Write a .txt next to each image too, one caption a line.
    resume:
        With --no-resume every image is captioned again.
    replace:
        Delete all other captions, those of people too.
    max_new_tokens:
        Most tokens of an answer; one that is cut off is rejected.
    batch:
        Images in one forward pass.
    temperature:
        Sampling temperature; 0 is greedy. Rejected answers are retried at 0.7 or more.
    retries:
        Attempts after a rejected answer, before the image is listed as a fault.
    seed:
        Of sampling; with it, each image has a seed of its own.
    pixels:
        Larger images are scaled down to so many pixels.
    device:
        auto, cpu, cuda, mps.
    dtype:
        Of the weights: auto as they are stored, fp32, bf16, fp16.
    dry_run:
        Print captions of so many images, and write nothing.
    """
    chosen = load_template(template)
    model_folder, version = captioner.find_model(model, revision)
    maker = _describe_maker(model, version, chosen, temperature, pixels, seed)
    request = Request(chosen, maker, temperature, retries, seed, pixels, max_new_tokens)
    options: dict[str, Any] = {"dtype": short_name(dtype), "max_new_tokens": max_new_tokens}
    merging = {"replace": replace, "side_cars": side_cars}
    with _processes(pick_device(device)) as (world, place, meet):
        # every process reads the folder before any of them writes
        console = open_console(quiet=world.rank > 0)
        say = say_on(console)
        collection = open_collection(existing_folder(folder), out)
        pictures = collection.pictures
        if resume and not dry_run:
            pictures = find_uncaptioned(collection, maker, replace=replace)
        meet()

        # a share for each process; the model is loaded only where there is one
        if dry_run:
            pictures = pictures[:: max(1, len(pictures) // dry_run)][:dry_run]
        else:
            skipped = f"{len(collection.pictures) - len(pictures)} of them captioned already"
            say(f"{len(collection.pictures)} images, {skipped} by {model}, {chosen.name}")
        share = pictures[world.rank :: world.size]
        load = partial(captioner.load_model, model_folder, device=place, **options)
        answers = caption_batches(share, load(), request, batch) if share else iter(())
        if dry_run:
            return _print_captions(say, answers)

        # a journal for each process; the first one merges them all
        journal = collection.journals / f"part-{world.rank}.jsonl"
        try:
            _write_journal(answers, journal, len(share), console, world)
        except KeyboardInterrupt:
            if world.size == 1:
                merge_journals(collection, **merging)
            raise
        meet()
        return 0 if world.rank else _finish(say, collection, **merging)


def _describe_maker(
    model: str, version: str, template: Template, temperature: float, pixels: int, seed: int
) -> dict[str, str]:
    """All that a caption depends on; --max-new-tokens does not change one that is whole."""
    folder = Path(model).expanduser()
    name = folder.resolve().name if folder.is_dir() else model
    sampling = f" seed={seed}" if temperature else ""
    settings = f"temperature={temperature:g} pixels={pixels}{sampling}"
    values = (name, version, template.name, template.digest, settings)
    return dict(zip(MAKER, values, strict=True))


@contextmanager
def _processes(
    device: torch.device,
) -> Iterator[tuple[World, torch.device, Callable[[], None]]]:
    """This process among those of torchrun, its device, and a barrier of all of them."""
    is_many = launched_size() > 1
    with joined(strategy_of_launch(), device) as (world, place):
        # one process may be hours ahead of another, more than a collective waits by default
        timeout = timedelta(days=30)
        group: Any = dist.new_group(backend="gloo", timeout=timeout) if is_many else None

        def meet() -> None:
            if is_many:
                dist.barrier(group)

        yield world, place, meet


def _write_journal(
    answers: Iterator[list[Record]], journal: Path, total: int, console: Console, world: World
) -> None:
    """Append each batch to this process's journal as it comes."""
    task = f"images of process 1 of {world.size}" if world.size > 1 else "images"
    done = 0
    with progress(console) as tick:
        tick(task, 0, total)
        for lines in answers:
            append_lines(journal, lines)
            done += len(lines)
            tick(task, done, total)


def _print_captions(say: Say, answers: Iterator[list[Record]]) -> int:
    for line in (line for lines in answers for line in lines):
        for text in line.get("captions") or [f"FAULT {line['reason']}"]:
            say(f"{line['key']}: {text}")
    return 0


def _finish(say: Say, collection: Collection, **merging: bool) -> int:
    """Merge the journals and report in a few lines; 1 where there are faults only."""
    summary = merge_journals(collection, **merging)
    captions, faults = summary.captions, summary.faults
    bad = sum(opens_badly(text) for texts in captions.values() for text in texts)
    side_cars = f", {summary.side_cars} side-cars written" if summary.side_cars else ""
    ending = f"; {bad} captions begin with words such as 'the image shows'" if bad else ""
    say(f"{len(captions)} images captioned{side_cars}{ending}")
    for line in faults[:MAX_FAULTS]:
        say(f"no caption: {line['key']}: {line['reason']}")
    if faults:
        say(f"{len(faults)} images have no caption; all are listed in {collection.faults}")
    return 1 if faults and not captions else 0
