"""Pictures to captions: the model runs again until an answer passes the template's rules."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import sqrt
from typing import Any, NamedTuple

import torch
from PIL import Image

from pathline.captioning.journal import Picture
from pathline.captioning.model import Answer, Ask
from pathline.captioning.records import Record, digest_image
from pathline.captioning.templates import Template, build_prompt, format_captions, parse_answer
from pathline.data.transforms import decode, to_image

RETRY_TEMPERATURE = 0.7  # at least, after an answer was rejected


class Request(NamedTuple):
    """How pictures are captioned."""

    template: Template
    maker: Mapping[str, Any]
    temperature: float
    retries: int
    seed: int
    pixels: int  # of an image, at most
    max_new_tokens: int


class Loaded(NamedTuple):
    """A picture that could be read."""

    picture: Picture
    digest: str
    image: Image.Image


def caption_batches(
    pictures: Sequence[Picture], ask: Ask, request: Request, batch: int
) -> Iterator[list[Record]]:
    """Batch by batch, a journal's line for each picture: its captions, or why it has none."""
    for start in range(0, len(pictures), batch):
        loaded, lines = [], []
        for picture in pictures[start : start + batch]:
            try:
                loaded.append(_load(picture, request.pixels))
            except (ValueError, OSError) as fault:
                lines.append(_build_line(picture, reason=str(fault)))
        answers = _ask_all(loaded, ask, request)
        pairs = zip(loaded, answers, strict=True)
        yield lines + [_caption(item, answer, ask, request) for item, answer in pairs]


def _load(picture: Picture, pixels: int) -> Loaded:
    """The image as it is displayed, of at most that many pixels."""
    content = picture.path.read_bytes()
    image = to_image(decode(content, name=str(picture.path))).convert("RGB")
    scale = sqrt(pixels / (image.width * image.height))
    if scale < 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    return Loaded(picture, digest_image(content), image)


def _ask_all(loaded: list[Loaded], ask: Ask, request: Request) -> list[Answer | str]:
    """Every picture's first answer, or why the model cannot take it."""
    try:
        return list(_ask(loaded, 0, ask, request))
    except ValueError as fault:  # such as a shape that the model's processor refuses
        if len(loaded) == 1:
            return [str(fault)]
        return [answer for item in loaded for answer in _ask_all([item], ask, request)]


def _ask(loaded: list[Loaded], attempt: int, ask: Ask, request: Request) -> list[Answer]:
    if not loaded:
        return []
    prompts = [build_prompt(request.template, item.picture.label) for item in loaded]
    seeds = [_seed(request.seed, item.picture.key, attempt) for item in loaded]
    # At temperature 0 a retry would only give the same answer again.
    retry_temperature = max(request.temperature, RETRY_TEMPERATURE)
    temperature = retry_temperature if attempt else request.temperature
    try:
        return ask([item.image for item in loaded], prompts, seeds, temperature)
    except torch.OutOfMemoryError as fault:
        raise OSError(
            f"--batch={len(loaded)} pictures don't fit into the device's memory. Use a smaller "
            "--batch or --pixels, or --dtype bf16."
        ) from fault


def _caption(item: Loaded, answer: Answer | str, ask: Ask, request: Request) -> Record:
    """The line of the first answer that passes the rules; each attempt has a seed of its own."""
    if isinstance(answer, str):
        return _build_line(item.picture, reason=answer)
    reason = ""
    # The first answer came with its batch; a retry is for this picture alone.
    for attempt in range(request.retries + 1):
        if attempt:
            [answer] = _ask([item], attempt, ask, request)
        try:
            return _check_answer(item, answer, attempt, request)
        except ValueError as fault:
            reason = str(fault)
    attempts = f"{request.retries + 1} attempts" if request.retries else "one attempt"
    reason = f"no caption in {attempts}: {reason}"
    return _build_line(item.picture, reason=reason, answer=answer.text)


def _check_answer(item: Loaded, answer: Answer, attempt: int, request: Request) -> Record:
    """The line of an answer; ValueError for one that is cut or breaks the template's rules."""
    if not answer.is_whole:
        raise ValueError(
            f"the answer was cut after {request.max_new_tokens} tokens. Raise --max-new-tokens."
        )
    template, picture = request.template, item.picture
    fields = parse_answer(template, answer.text, picture.label)
    captions = list(format_captions(template, fields))
    line = _build_line(picture, captions=captions)
    source = {**request.maker, "picture": item.digest, "date": line["date"], "attempt": attempt}
    if template.slots:
        source["answer"] = json.dumps(fields, ensure_ascii=False)
    return line | {"provenance": [source] * len(captions)}


def _build_line(picture: Picture, **fields: Any) -> Record:
    date = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"key": picture.key, "date": date, **fields}


def _seed(seed: int, key: str, attempt: int) -> int:
    """The seed of a picture and attempt, so that batches and processes change no answer."""
    text = f"{seed}/{attempt}/{key}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())
