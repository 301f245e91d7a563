"""Captions to states: tokens, hidden states in batches of similar length, one padded table."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Pooled = Literal["none", "mean", "own"]

MULTIPLE = 8  # lengths are rounded up to it: fewer shapes, and kernels like it
AT_ONCE = 4096  # tokens of a batch, padding included


class Reading(NamedTuple):
    """How captions are read by an encoder."""

    length: int  # most tokens of a caption
    layer: int = -1  # hidden state; -1: the last, normed
    pooled: Pooled = "none"
    is_padded: bool = False  # always padded to `length`, and nothing masked
    before: str = ""  # text put before every caption
    chat: bool = False  # captions are put into the tokenizer's chat template


def clean_caption(item: str | int | None) -> str:
    """A caption in composed characters (NFC) without space around it; None is the empty one.

    Raises ValueError for a label.
    """
    if isinstance(item, int):
        raise ValueError(
            f"Label {item} is wrong because this run is conditioned on captions. Use "
            "text=labels for labels."
        )
    return unicodedata.normalize("NFC", item or "").strip()


def tokenize(
    tokenizer: Any, captions: Sequence[str], reading: Reading
) -> tuple[list[list[int]], list[int]]:
    """Token numbers of each caption, at least one, and the numbers of captions that were cut."""
    texts = [_prepare(tokenizer, caption, reading) for caption in captions]
    options = {"add_special_tokens": not reading.chat, "verbose": False}
    rows = tokenizer(texts, truncation=True, max_length=reading.length, **options)["input_ids"]
    # only a row of full length can have been cut: these are tokenized again without a limit
    full = [number for number, row in enumerate(rows) if len(row) >= reading.length]
    longer = tokenizer([texts[number] for number in full], **options)["input_ids"] if full else []
    cut = [number for number, row in zip(full, longer, strict=True) if len(row) > reading.length]
    return [row or [_blank_token(tokenizer)] for row in rows], cut


def _prepare(tokenizer: Any, caption: str, reading: Reading) -> str:
    text = reading.before + caption if caption else ""  # as in Lumina 2, the null has no prefix
    text = text.lower() if reading.is_padded else text
    if not reading.chat:
        return text
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )


def _blank_token(tokenizer: Any) -> int:
    """For a caption without tokens: a mask that is false throughout would hide the row."""
    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((number for number in specials if number is not None), 0)


@torch.no_grad()
def encode_rows(
    module: nn.Module, rows: Sequence[list[int]], pad: int, reading: Reading
) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"], Float[Tensor, "n p"] | None]:
    """States in float32 on the CPU, zero where there is no token; mask; pooled vectors.

    Raises ValueError for states that are not finite.
    """
    counts = torch.tensor([len(row) for row in rows])
    longest = -(-int(counts.max()) // MULTIPLE) * MULTIPLE
    mask = torch.arange(longest) < counts[:, None]
    states, pooled = torch.empty(0), None
    # Batches of similar length, for a single long caption would pad all of them.
    for places in _batches(counts, reading):
        batch, vectors = _run(module, [rows[place] for place in places], pad, reading)
        if not len(states):
            states = torch.zeros(len(rows), longest, batch.shape[-1])
            pooled = None if vectors is None else torch.zeros(len(rows), vectors.shape[-1])
        states[places, : batch.shape[1]] = batch
        if pooled is not None and vectors is not None:
            pooled[places] = vectors
    return states, mask, pooled


def _batches(counts: Int[Tensor, " n"], reading: Reading) -> Iterator[list[int]]:
    """Row numbers in order of length; a batch has at most AT_ONCE tokens, or one caption."""
    batch: list[int] = []
    for place in counts.argsort(stable=True).tolist():
        width = reading.length if reading.is_padded else int(counts[place])
        if batch and width * (len(batch) + 1) > AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _run(
    module: nn.Module, rows: Sequence[list[int]], pad: int, reading: Reading
) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b p"] | None]:
    """One batch, padded on the right, whatever the tokenizer's own side is."""
    device = next(module.parameters()).device
    counts = torch.tensor([len(row) for row in rows])
    longest = int(counts.max())
    wide = reading.length if reading.is_padded else longest
    numbers = torch.tensor([row + [pad] * (wide - len(row)) for row in rows], device=device)
    mask = torch.arange(wide) < counts[:, None]
    # Encoders that were trained on padded captions read the padding too.
    options = {} if reading.is_padded else {"attention_mask": mask.to(device)}
    with torch.autocast(device.type, enabled=False):  # Gemma's states overflow in fp16
        out = module(input_ids=numbers, output_hidden_states=reading.layer != -1, **options)
    last = reading.layer == -1
    states = (out.last_hidden_state if last else out.hidden_states[reading.layer]).float().cpu()
    states = torch.where(mask[..., None], states, 0.0)[:, :longest]
    _check_finite(states)
    return states, _pool(out, states, mask[:, :longest], reading.pooled)


def _pool(
    out: Any, states: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"], kind: Pooled
) -> Float[Tensor, "b p"] | None:
    if kind == "none":
        return None
    if kind == "mean":
        return states.sum(1) / mask.sum(1, keepdim=True)
    pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    return pooled.float().cpu()


def _check_finite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise ValueError(
            "text.dtype=fp16 is wrong because the text encoder gave states that are not finite. "
            "Use text.dtype=bf16 or fp32."
        )
