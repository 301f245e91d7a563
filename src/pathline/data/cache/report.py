"""What preprocessing prints: a table of the buckets, and lists of pictures that are left out."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from pathline.data.buckets import Buckets, size_name
from pathline.data.cache.plan import Layout
from pathline.data.cache.rows import PlacedPicture
from pathline.data.faults import Fault

LISTED = 10  # pictures of a list that are named


def bucket_table(layout: Layout, buckets: Buckets, batch: int) -> list[Table | str]:
    """The buckets with the pictures in them, and notes on what may need attention."""
    heads = ("size", "images", "batches", "cropped", "at most", "upscaled", "refused")
    table = Table("bucket", *heads)
    by_size = {size: [p for p in layout.pictures if p.place.size == size] for size in buckets.sizes}
    refused = Counter(fault.size for fault in layout.refused)
    for number, (size, pictures) in enumerate(by_size.items()):
        if pictures or refused[size]:
            table.add_row(str(number), size_name(size), *_cells(pictures, batch, refused[size]))
    table.add_section()
    table.add_row("all", "", *_cells(layout.pictures, batch, len(layout.refused)))
    used = sum(map(bool, by_size.values()))
    notes = [f"{used} of {len(by_size)} buckets hold pictures; {len(layout.unreadable)} unreadable"]
    counts = {size_name(size): len(pictures) for size, pictures in by_size.items()}
    small = {name: count for name, count in counts.items() if 0 < count < batch}
    return [table, *notes, *([_note_on_small(small, batch)] if small else [])]


def _cells(pictures: Sequence[PlacedPicture], batch: int, refused: int) -> list[str]:
    """images, batches, share cropped on average and at most, upscaled, refused."""
    shares = [placed.place.cropped for placed in pictures] or [0.0]
    enlarged = sum(placed.place.scale > 1 for placed in pictures)
    average = f"{sum(shares) / len(shares):.1%}"
    batches = f"{len(pictures) / batch:.1f}"
    return [str(len(pictures)), batches, average, f"{max(shares):.1%}", str(enlarged), str(refused)]


def _note_on_small(small: dict[str, int], batch: int) -> str:
    """Buckets of which an update shows each picture more than once."""
    least = min(small, key=lambda name: small[name])
    return (
        f"{len(small)} buckets hold fewer pictures than train.batch={batch}: an update repeats "
        f"them, up to {batch / small[least]:.1f} times ({least}: {small[least]}), and such updates "
        "are rarer. A larger data.buckets.multiple makes fewer buckets, which crop more."
    )


def list_faults(layout: Layout) -> list[str]:
    """Every kind of picture that is left out or enlarged, the first of each by name."""
    kinds = {
        "unreadable": layout.unreadable,
        "refused, too small": layout.refused,
        "enlarged (data.buckets.small=keep)": layout.enlarged,
    }
    lines = []
    for kind, faults in kinds.items():
        lines += [f"{kind}: {_named(fault)}" for fault in faults[:LISTED]]
        if len(faults) > LISTED:
            lines.append(f"{kind}: … and {len(faults) - LISTED} more")
    return lines


def _named(fault: Fault) -> str:
    return fault.reason if fault.key in fault.reason else f"{fault.key}: {fault.reason}"
