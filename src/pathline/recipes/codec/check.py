"""`pathline codec check`: reconstruction error of a codec, and statistics of its latents."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from rich.table import Table
from torch import Tensor

from pathline.config.pick import bind
from pathline.config.resolve import read
from pathline.console import open_console, print_table, say_on
from pathline.data.sources.source import Source
from pathline.data.transforms import fit, recolour
from pathline.evaluation.codec_score import SHOWN, TURNS, Sums, measured
from pathline.files import unused, write_whole
from pathline.images import save_sheet, sheet
from pathline.ranges import Positive
from pathline.runs.from_pictures import open_source
from pathline.tables import TABLES
from pathline.training.device import pick_device
from pathline.types import Codec, Facts

LARGEST, GAIN = 512, 4  # pixels of a side by default; factor of differences in the sheet
TABLE_CHANNELS = 64
BEST = 100.0  # dB of a codec without any error


class Sample(NamedTuple):
    """Images of one size."""

    pixels: UInt8[Tensor, "n c h w"]
    keys: list[str]
    bad: list[str]  # rows that could not be read, and why


def codec_check(
    codec: str,
    folder: str,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    count: Positive = 64,
    size: Positive | None = None,
    batch: Positive = 4,
    device: str | None = None,
    out: Path = Path("codec-check.png"),
) -> int:
    """Measure a codec on images: PSNR, statistics of its latents, equivariance; write a sheet.

    Parameters
    ----------
    codec:
        A row of `pathline config list codec`.
    folder:
        A folder, parquet or tar file of images, or a preset.
    overrides:
        Settings as key=value, such as codec.path=DIR or codec.dtype=bf16.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    count:
        How many images, spread evenly over all.
    size:
        Pixels of a side; by default that of the first image, at most 512.
    batch:
        Images at a time.
    device:
        auto, cpu, cuda, cuda:1, mps.
    out:
        PNG of original, decoded and difference; numbers go to a .json of the same name.
    """
    settings = [f"codec={codec}", *overrides]
    run = read(folder, config, settings, {"device": device}, tables=TABLES).run
    run, source = open_source(run)
    built: Codec = bind(TABLES["codec"], run.codec, "codec")(Facts(run.data.channels, 0, 0))
    console = open_console()
    say = say_on(console)
    sample = read_images(source, count, size, built.factor, run.data.channels)
    place = pick_device(run.device)
    if built.to is not None:
        built.to(place)
    sums = measured(built, sample.pixels, place, batch, console)
    report = report_of(built, sample, sums)
    for table in tables(report):
        print_table(console, table)
    for line in (*sample.bad, *(f"{turn}: {why}" for turn, why in sums.unmeasured.items())):
        say(f"left out: {line}")
    out.parent.mkdir(parents=True, exist_ok=True)
    page, numbers = unused(out), unused(out.with_suffix(".json"))
    save_sheet(comparison(sample, sums), page)
    write_whole(numbers, json.dumps(report, indent=1) + "\n")
    say(f"images: {page}; numbers: {numbers}")
    return 0


def read_images(source: Source, count: int, size: int | None, factor: int, channels: int) -> Sample:
    """Images spread evenly over the source, cropped to squares of one size."""
    rows = torch.linspace(0, source.count - 1, min(count, source.count)).round().long()
    images, keys, bad = [], [], []
    for row in rows.tolist():
        try:
            example = source.read(row)
        except (ValueError, OSError) as error:
            bad.append(f"row {row}: {error}")
            continue
        # Where no size is set the first image decides, by a multiple of the codec's factor.
        size = size or max(factor, min(*example.image.shape[1:], LARGEST) // factor * factor)
        images.append(recolour(fit(example.image, size), channels))
        keys.append(example.key)
    if not images:
        raise ValueError("No image can be read: " + "; ".join(bad[:3] or ["none"]))
    return Sample(torch.stack(images), keys, bad)


def decibels(error: float) -> float:
    """PSNR of a mean squared error of values in [0, 1]."""
    return min(BEST, -10 * torch.tensor(error, dtype=torch.float64).log10().item())


def report_of(codec: Codec, sample: Sample, sums: Sums) -> dict[str, Any]:
    """All numbers, for the JSON file."""
    each = [decibels(error) for error in sums.errors]
    worst = min(range(len(each)), key=each.__getitem__)
    raw, x1 = _spread(sums.raw), _spread(sums.x1)
    # Errors of latents as shares of their variance, so that codecs can be compared.
    variance = fmean(std**2 for std in raw["std"]) or 1.0
    turned = {turn: sums.commute[turn] for turn in TURNS if turn not in sums.unmeasured}
    return {
        "codec": codec.id,
        "pictures": len(each),
        "left_out": len(sample.bad),
        "size": list(sample.pixels.shape[2:]),
        "channels": codec.channels,
        "factor": codec.factor,
        "mse": fmean(sums.errors),
        "psnr": {"mean": fmean(each), "median": median(each), "worst": each[worst]},
        "worst": sample.keys[worst],
        "raw": raw,
        "x1": x1,
        "equivariance": {
            turn: {"latent": far / n / variance, "psnr": decibels(near / m)}
            for turn, (n, far, m, near) in turned.items()
        },
        "encode_rate": len(each) / sums.seconds[0],
        "decode_rate": len(each) / sums.seconds[1],
    }


def _spread(moments: Float[Tensor, "3 c"]) -> dict[str, Any]:
    """Mean and standard deviation of all and of each channel."""
    count, first, second = moments
    mean = first / count
    # E[x²] − E[x]² may be below 0 by rounding.
    std = (second / count - mean.square()).clamp(min=0).sqrt()
    whole = first.sum() / count.sum()
    spread = (second.sum() / count.sum() - whole.square()).clamp(min=0).sqrt()
    return {
        "pooled_mean": whole.item(),
        "pooled_std": spread.item(),
        "mean": mean.tolist(),
        "std": std.tolist(),
    }


def tables(report: dict[str, Any]) -> list[Table]:
    """The report as tables."""
    psnr, size = report["psnr"], "x".join(map(str, report["size"]))
    title = f"{report['codec']} on {report['pictures']} images of {size}"
    whole = Table(title=title, title_justify="left", show_header=False)
    whole.add_row("PSNR", f"{psnr['mean']:.2f} dB, median {psnr['median']:.2f}")
    whole.add_row("worst", f"{psnr['worst']:.2f} dB, {report['worst']}")
    whole.add_row("mean squared error", f"{report['mse']:.2e} of values in [0, 1]")
    whole.add_row("latent", f"{report['channels']} channels, {report['factor']} pixels a side")
    for name, what in (("raw", "raw latents"), ("x1", "x1, normalised")):
        spread = report[name]
        whole.add_row(what, f"mean {spread['pooled_mean']:.3f}, std {spread['pooled_std']:.3f}")
    rates = (f"{report[f'{verb}_rate']:.1f} {verb}d" for verb in ("encode", "decode"))
    whole.add_row("images/s", ", ".join(rates))
    turns = Table("turned", "E(Tx) − T(E(x)), of the variance", "D(T(E(x))) against Tx")
    for turn, errors in report["equivariance"].items():
        turns.add_row(turn, f"{errors['latent']:.3f}", f"{errors['psnr']:.2f} dB")
    return [whole, turns, _channels(report["raw"])]


def _channels(raw: dict[str, Any]) -> Table:
    """Four channels a row; the first ones of very many."""
    table = Table("channel", "mean of raw", "std of raw")
    count = len(raw["mean"])
    for start in range(0, min(count, TABLE_CHANNELS), 4):
        part = slice(start, start + 4)
        cells = (" ".join(f"{v:6.2f}" for v in raw[key][part]) for key in ("mean", "std"))
        table.add_row(f"{start} - {min(start + 3, count - 1)}", *cells)
    if count > TABLE_CHANNELS:
        table.add_row(f"… {count - TABLE_CHANNELS} more", "in the .json", "")
    return table


def comparison(sample: Sample, sums: Sums) -> Image.Image:
    """Original, decoded and difference of the first images, a row each."""
    tiles, titles = [], []
    first = slice(min(SHOWN, len(sample.keys)))
    parts = (sample.pixels[first], sums.shown[first], sample.keys[first], sums.errors[first])
    for x, back, key, error in zip(*parts, strict=True):
        far = (x.int() - back.int()).abs().mul(GAIN).clamp(max=255).to(torch.uint8)
        tiles += [x, back, far]
        titles += [key, f"decoded, {decibels(error):.1f} dB", f"difference x {GAIN}"]
    return sheet(torch.stack(tiles), titles, columns=3)
