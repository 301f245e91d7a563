"""Words to states: tokens of each caption, states in batches of like length, one padded table."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pathline.text.loading import Pooled

MULTIPLE = 8  # lengths are rounded up to it: fewer shapes, and kernels like it
AT_ONCE = 4096  # tokens of a batch, padding included


class Reading(NamedTuple):
    """How an encoder is asked."""

    length: int  # most tokens of a caption
    layer: int = -1  # hidden state; -1: the last, normed
    pooled: Pooled = "none"
    whole: bool = False  # always padded to `length`, and nothing masked
    before: str = ""  # stands before every caption
    chat: bool = False  # captions are put into the tokenizer's chat template


def worded(item: str | int | None) -> str:
    """A caption in composed letters (NFC), no space around it; nothing asked is the empty one.

    Raises ValueError for a label, which is no word.
    """
    if isinstance(item, int):
        raise ValueError(
            f"The label {item} is no caption; this run reads words. Use text=labels for labels."
        )
    return unicodedata.normalize("NFC", item or "").strip()


def tokenize(
    tokenizer: Any, captions: Sequence[str], reading: Reading
) -> tuple[list[list[int]], list[int]]:
    """Token numbers of each caption, at least one, and which captions had to be cut."""
    texts = [_framed(tokenizer, caption, reading) for caption in captions]
    ways = {"add_special_tokens": not reading.chat, "verbose": False}
    rows = tokenizer(texts, truncation=True, max_length=reading.length, **ways)["input_ids"]
    full = [at for at, row in enumerate(rows) if len(row) >= reading.length]
    longer = tokenizer([texts[at] for at in full], **ways)["input_ids"] if full else []
    cut = [at for at, row in zip(full, longer, strict=True) if len(row) > reading.length]
    return [row or [_blank(tokenizer)] for row in rows], cut


def _framed(tokenizer: Any, caption: str, reading: Reading) -> str:
    text = reading.before + caption if caption else ""  # Lumina's null is without its prefix too
    text = text.lower() if reading.whole else text
    if not reading.chat:
        return text
    said = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )


def _blank(tokenizer: Any) -> int:
    """Stands for a caption without a token: a mask that is false throughout would hide the row."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((number for number in known if number is not None), 0)


@torch.no_grad()
def states_of(
    module: nn.Module, rows: Sequence[list[int]], pad: int, reading: Reading
) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"], Float[Tensor, "n p"] | None]:
    """States in float32 on the CPU, zero where there is no token; mask; pooled vectors.

    Raises ValueError for states that are not finite.
    """
    counts = torch.tensor([len(row) for row in rows])
    longest = -(-int(counts.max()) // MULTIPLE) * MULTIPLE
    mask = torch.arange(longest) < counts[:, None]
    states, pooled = torch.empty(0), None
    for places in _batches(counts, reading):
        found, vectors = _run(module, [rows[place] for place in places], pad, reading)
        if not len(states):
            states = torch.zeros(len(rows), longest, found.shape[-1])
            pooled = None if vectors is None else torch.zeros(len(rows), vectors.shape[-1])
        states[places, : found.shape[1]] = found
        if pooled is not None and vectors is not None:
            pooled[places] = vectors
    return states, mask, pooled


def _batches(counts: Int[Tensor, " n"], reading: Reading) -> Iterator[list[int]]:
    """Places in order of length; a batch holds AT_ONCE tokens, or one caption."""
    batch: list[int] = []
    for place in counts.argsort(stable=True).tolist():
        width = reading.length if reading.whole else int(counts[place])
        if batch and width * (len(batch) + 1) > AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def _run(
    module: nn.Module, rows: Sequence[list[int]], pad: int, reading: Reading
) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b p"] | None]:
    """One batch, padded on the right, whatever side the tokenizer would have taken."""
    device = next(module.parameters()).device
    counts = torch.tensor([len(row) for row in rows])
    longest = int(counts.max())
    wide = reading.length if reading.whole else longest
    numbers = torch.tensor([row + [pad] * (wide - len(row)) for row in rows], device=device)
    mask = torch.arange(wide) < counts[:, None]
    given = {} if reading.whole else {"attention_mask": mask.to(device)}
    with torch.autocast(device.type, enabled=False):  # Gemma's states leave half precision's range
        out = module(input_ids=numbers, output_hidden_states=reading.layer != -1, **given)
    last = reading.layer == -1
    states = (out.last_hidden_state if last else out.hidden_states[reading.layer]).float().cpu()
    states = torch.where(mask[..., None], states, 0.0)[:, :longest]
    _refuse_infinite(states)
    return states, _pool(out, states, mask[:, :longest], reading.pooled)


def _pool(
    out: Any, states: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"], kind: Pooled
) -> Float[Tensor, "b p"] | None:
    if kind == "none":
        return None
    if kind == "mean":
        return states.sum(1) / mask.sum(1, keepdim=True)
    own = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    return own.float().cpu()


def _refuse_infinite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise ValueError(
            "The text encoder gave states that are not finite: its numbers do not fit float16; "
            "use text.dtype=bf16 or fp32."
        )
