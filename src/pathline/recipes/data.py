"""`pathline data`: the pictures of a folder, a file or a preset in tables and a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pathline.config.resolve import read
from pathline.console import open_console, print_table, tracked
from pathline.data.sources.source import Source
from pathline.data.stats import Stats, measure, summary
from pathline.files import unused
from pathline.images import save_sheet, sheet
from pathline.runs.from_pictures import open_source, refuse_inside
from pathline.tables import TABLES

MAX_ROWS = 12  # of a table of counts
MAX_LISTED = 10  # unreadable pictures


def data(
    what: str,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    out: Path = Path("contact-sheet.png"),
) -> int:
    """Inspect the pictures of a preset or your own: counts, sizes, captions, a contact sheet.

    Parameters
    ----------
    what:
        A preset, or a folder, parquet or tar file of pictures.
    overrides:
        Settings as key=value, such as data.source.split=test.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    out:
        The picture file that the contact sheet is written to.
    """
    run, source = open_source(read(what, config, overrides, tables=TABLES).run)
    refuse_inside(out, run)
    console = open_console()
    console.print(f"{what}: read as {run.data.source.name}")
    for note in source.notes:
        console.print(note)
    return 0 if inspect(source, out=out, console=console).sizes else 2


def inspect(source: Source, *, out: Path, console: Console) -> Stats:
    """Count, print, and write the contact sheet to `out`."""

    stats = measure(source, progress=partial(tracked, task="reading pictures", console=console))
    console.print(_summary(stats))
    for table in _tables(stats, source):
        print_table(console, table)
    for row, reason in stats.unreadable[:MAX_LISTED]:
        console.print(f"unreadable, row {row}: {reason}")
    if len(stats.unreadable) > MAX_LISTED:
        console.print(f"… and {len(stats.unreadable) - MAX_LISTED} more")
    if stats.examples:
        out.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.stack([picture for picture, _ in stats.examples])
        page = unused(out)
        save_sheet(sheet(pixels, [title for _, title in stats.examples]), page)
        console.print(f"contact sheet: {page}")
    return stats


def _tables(stats: Stats, source: Source) -> list[Table]:
    """The report, a table for each kind of count; empty ones are left out."""
    readable = stats.total - len(stats.unreadable)
    if not readable:
        return []
    tables = [_numbers(stats), _counts("shape (width : height)", stats.ratios, readable)]
    sizes = {f"{width} x {height}": n for (width, height), n in stats.sizes.most_common()}
    tables.append(_counts("size", sizes, readable))
    tables.append(_counts("stored as", dict(stats.modes.most_common()), readable))
    if source.names:
        labels = {_label(source, label): n for label, n in stats.labels.most_common()}
        tables.append(_counts("label", labels, readable))
    if stats.words:
        frequent = dict(stats.words.most_common(MAX_ROWS))
        tables.append(_counts("word", frequent, readable, share=False))
    if stats.tags:
        tables.append(_counts("tag", dict(stats.tags.most_common()), readable, share=False))
    return tables


def _numbers(stats: Stats) -> Table:
    table = Table("", "minimum", "median", "maximum")
    widths, heights = Counter[int](), Counter[int]()
    for (width, height), times in stats.sizes.items():
        widths[width] += times
        heights[height] += times
    lines = {"width": widths, "height": heights, "words of a caption": stats.lengths}
    lines |= {"captions of a picture": stats.captions} if max(stats.captions, default=0) > 1 else {}
    for name, counts in lines.items():
        if numbers := summary(counts):
            table.add_row(name, *map(str, numbers))
    return table


def _summary(stats: Stats) -> str:
    """The counts in one line."""
    readable = stats.total - len(stats.unreadable)
    parts = [f"{stats.total} pictures", f"{len(stats.unreadable)} unreadable"]
    parts += [f"{readable - stats.missing} with a caption", f"{stats.missing} without"]
    if stats.alpha:
        parts.append(f"{stats.alpha} may be transparent and are laid over white")
    if stats.words:
        parts.append(f"{len(stats.words)} different words")
    return "; ".join(parts)


def _counts(title: str, counts: dict[str, int], total: int, *, share: bool = True) -> Table:
    """Names with how often they occur; the tail is summed up, never cut off silently."""
    shown = dict(list(counts.items())[:MAX_ROWS])
    rest = {name: n for name, n in counts.items() if name not in shown}
    if rest:
        shown[f"… {len(rest)} more"] = sum(rest.values())
    table = Table(title, "pictures" if share else "times", *(["share"] if share else []))
    for name, n in shown.items():
        if n:
            table.add_row(name, str(n), *([f"{n / total:.1%}"] if share else []))
    return table


def _label(source: Source, label: int | None) -> str:
    if label is None:
        return "none"
    name = source.names[label]
    return name if name == str(label) else f"{label} {name}"
