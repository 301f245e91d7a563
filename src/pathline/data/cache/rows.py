"""The writer of all rows: latents, text states and features, from their inputs to shards.

The kinds differ in how an input is read and how a batch of inputs is encoded, which a `Kind` holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pathline.data.ahead import map_ahead
from pathline.data.buckets import Place, cut
from pathline.data.cache.scan import Picture, unchanged
from pathline.data.cache.shards import TOKENS, Row, Shard, places, renamed, save, tensors, unpack
from pathline.data.faults import Fault
from pathline.data.sources.source import Source
from pathline.data.transforms import recolour
from pathline.types import Cond
from pathline.weights import DTYPES

VALUES, MIRRORED, SUMS, POOLED = "values", "mirrored", "sums", "pooled"  # tensors of a row
Encode = Callable[[Tensor], Tensor]  # uint8 [n c h w] -> [n k i j], on any device
EncodeText = Callable[[Sequence[str | None]], Cond]  # None: the null condition


class PlacedPicture(NamedTuple):
    """A picture, where its bucket cuts it, and the id of the row made from it."""

    id: str
    picture: Picture
    place: Place


class Kind(NamedTuple):
    """How the rows of one folder are made."""

    # row id -> the input of the encoder, or why it can't be read; called by threads
    read: Callable[[str], Any]
    # row ids, their inputs -> a function that waits for the encoder and returns the rows
    encode: Callable[[Sequence[str], Sequence[Any]], Callable[[], list[Row]]]
    # the rows of a shard are encoded in the order of this number
    order: Callable[[str], int] = lambda _: 0


def text_kind(captions: Mapping[str, str], encode: EncodeText, dtype: str) -> Kind:
    """Text states. captions: row id -> caption; captions of like length share a batch."""

    def encode_batch(_: Sequence[str], texts: Sequence[str]) -> Callable[[], list[Row]]:
        rows = text_rows(encode(texts), texts, dtype)
        return lambda: rows

    return Kind(captions.__getitem__, encode_batch, lambda row: len(captions[row]))


def picture_kind(
    pictures: Mapping[str, PlacedPicture],
    source: Source,
    encode: Encode,
    *,
    channels: int,
    flip: bool,
    dtype: str,
    noun: str,
) -> Kind:
    """Latents or features of pictures, and of their mirror images if `flip`.

    channels: of the pictures. noun: names the rows in an error.
    """

    def read(row: str) -> Tensor | Fault:
        picture = pictures[row].picture
        try:
            return read_picture(source, pictures[row], channels)
        except (ValueError, OSError) as error:
            # What may be well next time is not remembered as undecodable.
            temporary = isinstance(error, OSError) or _is_changing(source, picture)
            return Fault(picture.key, str(error), picture.digest, temporary=temporary)

    def encode_batch(ids: Sequence[str], images: Sequence[Tensor]) -> Callable[[], list[Row]]:
        pixels = torch.stack(list(images))
        # The mirror image is encoded too: a mirrored latent is not its latent.
        raw = encode(pixels)
        mirrored = encode(pixels.flip(-1)) if flip else None
        keys = [pictures[row].picture.key for row in ids]
        return lambda: latent_rows(raw, mirrored, dtype, keys, noun=noun)

    return Kind(read, encode_batch)


def write(
    folder: Path,
    chunks: Mapping[str, Sequence[str]],
    present: Sequence[Shard],
    kind: Kind,
    *,
    batch: int,
    tick: Callable[[int], None] = lambda _: None,
) -> list[Fault]:
    """Write shards and return the inputs that can't be read.

    chunks: file -> ids of its rows. Rows of the shards `present` are copied, the others encoded; a
    file among them is left as it is. A shard that lacks unreadable rows is named by the others.
    """
    copies = {
        row: (present[number].file, position) for row, (number, position) in places(present).items()
    }
    existing = {shard.file for shard in present}
    files = {file: ids for file, ids in chunks.items() if file not in existing}
    todo = {
        file: sorted((row for row in ids if row not in copies), key=kind.order)
        for file, ids in files.items()
    }
    faults: list[Fault] = []
    # Reading goes on over the ends of shards, so that the encoder never waits for the first of one.
    order = [row for ids in todo.values() for row in ids]
    with closing(map_ahead(lambda row: (row, kind.read(row)), order, ahead=2 * batch)) as inputs:
        for file, ids in files.items():
            rows = _copied(folder, {row: copies[row] for row in ids if row in copies})
            for encoded, unreadable in _encoded(islice(inputs, len(todo[file])), kind, batch):
                rows |= encoded
                faults += unreadable
                tick(len(encoded) + len(unreadable))
            # Named by what it holds, so that a shard without unreadable rows is another file.
            complete = [row for row in ids if row in rows]
            if complete:
                save(folder / renamed(file, complete), complete, [rows[row] for row in complete])
    return faults


@torch.inference_mode()
def _encoded(
    inputs: Iterator[tuple[str, Any]], kind: Kind, batch: int
) -> Iterator[tuple[dict[str, Row], list[Fault]]]:
    """Rows by id and unreadable inputs, batch by batch.

    A batch is collected from the device after the next one was launched: neither side waits.
    """
    launched: list[tuple[Sequence[str], Callable[[], list[Row]], list[Fault]]] = []
    while items := list(islice(inputs, batch)):
        readable = [(row, value) for row, value in items if not isinstance(value, Fault)]
        faults = [value for _, value in items if isinstance(value, Fault)]
        ids, values = [row for row, _ in readable], [value for _, value in readable]
        launched.append((ids, kind.encode(ids, values) if ids else list, faults))
        if len(launched) > 1:
            yield _collected(*launched.pop(0))
    for batch_of_rows in launched:
        yield _collected(*batch_of_rows)


def _collected(
    ids: Sequence[str], collect: Callable[[], list[Row]], faults: list[Fault]
) -> tuple[dict[str, Row], list[Fault]]:
    return dict(zip(ids, collect(), strict=True)), faults


def _copied(folder: Path, copies: Mapping[str, tuple[str, int]]) -> dict[str, Row]:
    """Rows of other shards."""
    tables = {file: tensors(folder / file) for file in {file for file, _ in copies.values()}}
    return {row: unpack(tables[file], position) for row, (file, position) in copies.items()}


def read_picture(source: Source, placed: PlacedPicture, channels: int) -> UInt8[Tensor, "c h w"]:
    """The picture, cut for its bucket.

    Raises ValueError for what the file holds, and OSError where it can't be read or has changed.
    """
    picture = placed.picture
    image = source.read(picture.row).image
    # Rows are named by the digest of the file: other bytes must not get its name.
    if not unchanged(source, picture):
        raise OSError(f"{picture.key} was changed while it was read. Start again.")
    if tuple(image.shape[1:]) != (picture.height, picture.width):
        raise ValueError(
            f"{picture.key} has {image.shape[2]}x{image.shape[1]} pixels, but its header says "
            f"{picture.width}x{picture.height}"
        )
    return cut(recolour(image, channels), placed.place)


def _is_changing(source: Source, picture: Picture) -> bool:
    """Whether another program is writing the file, so that its fault may be gone the next time."""
    try:
        return not unchanged(source, picture)
    except OSError:
        return True


def latent_rows(
    raw: Float[Tensor, "n c h w"],
    mirrored: Float[Tensor, "n c h w"] | None,
    dtype: str,
    keys: Sequence[str],
    *,
    noun: str = "latents",
) -> list[Row]:
    """Rows of raw latents as they are stored, with sums and sums of squares for the statistics.

    Raises ValueError, naming pictures by `keys`, where a number is not finite.
    """
    columns = {VALUES: _stored(raw, dtype, keys, noun, "--dtype")}
    if mirrored is not None:
        columns[MIRRORED] = _stored(mirrored, dtype, keys, noun, "--dtype")
    exact = [column.double() for column in columns.values()]
    moments = [torch.stack([x.sum((2, 3)), x.square().sum((2, 3))], 1) for x in exact]
    columns[SUMS] = sum(moments[1:], moments[0])  # float64 [n 2 c]
    return [{key: column[n] for key, column in columns.items()} for n in range(len(raw))]


def text_rows(cond: Cond, captions: Sequence[str], dtype: str) -> list[Row]:
    """Rows of encoded captions as they are stored, without padding.

    Raises ValueError where a number is not finite, or where there are no states to store.
    """
    if cond.tokens is None and cond.pooled is None:
        raise ValueError("This text encoder gives neither states nor a pooled vector to store.")
    rows: list[Row] = [{} for _ in captions]
    names = [repr(caption[:60]) for caption in captions]
    if cond.tokens is not None:
        tokens = _stored(cond.tokens, dtype, names, "text states", "--text-dtype")
        for number, row in enumerate(rows):
            mask = slice(None) if cond.mask is None else cond.mask[number].cpu()
            row[TOKENS] = tokens[number][mask]
    if cond.pooled is not None:
        pooled = _stored(cond.pooled, dtype, names, "pooled text states", "--text-dtype")
        for vector, row in zip(pooled, rows, strict=True):
            row[POOLED] = vector
    return rows


def _stored(values: Tensor, dtype: str, names: Sequence[str], noun: str, option: str) -> Tensor:
    """Values on the CPU in their stored dtype. Raises ValueError if not all are finite."""
    # Checked after the conversion, since fp16 overflows above 65504.
    stored = values.detach().to("cpu", DTYPES[dtype])
    is_finite = torch.isfinite(stored).flatten(1).all(1).tolist()
    if not all(is_finite):
        listed = ", ".join(
            name for name, finite in zip(names, is_finite, strict=True) if not finite
        )
        raise ValueError(
            f"The {noun} of {listed} are not finite as {dtype} (greatest "
            f"{values.abs().max().item():.3g}). Store them in another dtype ({option} bf16 or "
            "fp32), or check whether their encoder gives NaN."
        )
    return stored
