"""A captioning model is asked about pictures until an answer will do, so often and no oftener."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from pathline.captioning.journal import Task
from pathline.captioning.model import Answer, Ask
from pathline.captioning.templates import Template, instruction, parse, said
from pathline.data.captions import Record, digest
from pathline.data.transforms import decode, to_image

HEAT = 0.7  # temperature of another try after the likeliest words would not do


class Asking(NamedTuple):
    """How pictures are asked about."""

    template: Template
    maker: Mapping[str, Any]
    temperature: float
    retries: int
    seed: int
    pixels: int
    max_new_tokens: int


def answered(tasks: Sequence[Task], ask: Ask, asking: Asking, batch: int) -> Iterator[list[Record]]:
    """Batch by batch, a record of each picture: its captions, or why it has none."""
    for start in range(0, len(tasks), batch):
        seen, lines = [], []
        for task in tasks[start : start + batch]:
            try:
                content = task.path.read_bytes()
                seen.append((task, digest(content), _picture(task.path, content, asking.pixels)))
            except (ValueError, OSError) as fault:
                lines.append(_line(task, reason=str(fault)))
        firsts = _all_at_once([(task, picture) for task, _, picture in seen], ask, asking)
        for (task, state, picture), first in zip(seen, firsts, strict=True):
            lines.append(_insisted(task, state, picture, first, ask, asking))
        yield lines


def _picture(path: Path, content: bytes, pixels: int) -> Image.Image:
    """As it is meant to be seen, no larger than the model is to see it."""
    picture = to_image(decode(content, name=str(path))).convert("RGB")
    scale = sqrt(pixels / (picture.width * picture.height))
    if scale >= 1:
        return picture
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def _all_at_once(
    seen: list[tuple[Task, Image.Image]], ask: Ask, asking: Asking
) -> list[Answer | str]:
    """Every picture's first answer, or why the model can't look at it."""
    try:
        return list(_asked(seen, 0, ask, asking))
    except ValueError as fault:  # such as a shape that the model's processor refuses
        if len(seen) == 1:
            return [str(fault)]
        return [answer for one in seen for answer in _all_at_once([one], ask, asking)]


def _asked(
    seen: list[tuple[Task, Image.Image]], attempt: int, ask: Ask, asking: Asking
) -> list[Answer]:
    if not seen:
        return []
    prompts = [instruction(asking.template, task.label) for task, _ in seen]
    seeds = [_seed(asking.seed, task.key, attempt) for task, _ in seen]
    heat = max(asking.temperature, HEAT) if attempt else asking.temperature
    try:
        return ask([picture for _, picture in seen], prompts, seeds, heat)
    except torch.OutOfMemoryError as fault:
        raise OSError(
            f"{len(seen)} pictures at once don't fit into the device's memory: take a smaller "
            "--batch or --pixels, or --dtype bf16"
        ) from fault


def _insisted(
    task: Task, state: str, picture: Image.Image, first: Answer | str, ask: Ask, asking: Asking
) -> Record:
    """The record of the first answer that will do, of so many tries; each draws by its own seed."""
    if isinstance(first, str):
        return _line(task, reason=first)
    answer, reason = first, ""
    for attempt in range(asking.retries + 1):
        if attempt:
            [answer] = _asked([(task, picture)], attempt, ask, asking)
        try:
            return _made(task, state, answer, attempt, asking)
        except ValueError as fault:
            reason = str(fault)
    tries = f"{asking.retries + 1} tries" if asking.retries else "one try"
    return _line(task, reason=f"no caption in {tries}: {reason}", answer=answer.text)


def _made(task: Task, state: str, answer: Answer, attempt: int, asking: Asking) -> Record:
    """The record of an answer; ValueError for one that is cut or isn't what was asked for."""
    if not answer.is_whole:
        raise ValueError(
            f"the answer was cut after {asking.max_new_tokens} tokens; raise --max-new-tokens"
        )
    fields = parse(asking.template, answer.text, task.label)
    line = _line(task, captions=list(said(asking.template, fields)))
    kept = {"answer": json.dumps(fields, ensure_ascii=False)} if asking.template.slots else {}
    made = {"picture": state, "date": line["date"], "attempt": attempt, **kept}
    return line | {"provenance": {**asking.maker, **made}}


def _line(task: Task, **told: Any) -> Record:
    return {"key": task.key, "date": datetime.now(UTC).isoformat(timespec="milliseconds"), **told}


def _seed(seed: int, key: str, attempt: int) -> int:
    """A picture's own, so that it is asked alike in any batch and by any process."""
    told = f"{seed}/{attempt}/{key}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=7).digest())
